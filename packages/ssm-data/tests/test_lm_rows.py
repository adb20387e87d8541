"""Rows of a packed corpus."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_data import cache
from ssm_data.lm.packing import TokenizerPlace
from ssm_data.lm.split import Rows, TokenSplit


@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 29), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_every_token_is_scored_once_whatever_the_rows(tmp_path_factory, n, length, context, streams) -> None:
    tokens = np.arange(n + 1, dtype=np.uint16)
    folder = tmp_path_factory.mktemp("rows")
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "documents.npy", np.array([0, n + 1]))
    part = cache.Part(folder, "test", "")
    for cut in (Rows(length, context=context % length), Rows(length, "streams", streams=streams)):
        split = TokenSplit(part, cut, TokenizerPlace("byte"))
        scored = []
        for row in split:
            held = row["targets"] >= 0
            assert (row["targets"][held] == row["inputs"][held] + 1).all()
            scored += row["targets"][held].tolist()
        assert sorted(scored) == list(range(1, n + 1))


def corpus_split(tmp_path, cut: Rows, n: int = 1000) -> TokenSplit:
    np.save(tmp_path / "tokens.npy", np.arange(n, dtype=np.uint16))
    np.save(tmp_path / "documents.npy", np.array([0, 10, 11, 500, n]))
    return TokenSplit(cache.Part(tmp_path, "test", ""), cut, TokenizerPlace("byte"))


def test_streams_go_on_where_the_batch_before_ended(tmp_path) -> None:
    split = corpus_split(tmp_path, Rows(16, "streams", streams=4))
    batches = [[split[i] for i in range(k, k + 4)] for k in range(0, len(split), 4)]
    for before, after in pairwise(batches):
        for first, second in zip(before, after, strict=True):
            if (second["targets"] >= 0).any():
                assert second["inputs"][0] == first["targets"][-1]


def test_random_windows_are_drawn_by_the_seed(tmp_path) -> None:
    split = corpus_split(tmp_path, Rows(16, "random", n=500, seed=1))
    starts = [int(row["inputs"][0]) for row in split]
    assert len(split) == 500
    assert len(set(starts)) > 300
    assert min(starts) < 20
    assert 960 < max(starts) <= 1000 - 17
    assert all((row["targets"] >= 0).all() for row in split)
    other = corpus_split(tmp_path, Rows(16, "random", n=500, seed=2))
    assert starts != [int(row["inputs"][0]) for row in other]


def test_resets_stand_where_documents_begin(tmp_path) -> None:
    split = corpus_split(tmp_path, Rows(64, reset=True))
    found = [i * 64 + j for i, row in enumerate(split) for j in np.flatnonzero(row["reset"])]
    assert found == [0, 10, 11, 500]
    sent = pickle.dumps(split)
    assert len(sent) < 1000
    assert (pickle.loads(sent)[7]["reset"] == split[7]["reset"]).all()
