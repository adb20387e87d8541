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


@given(st.integers(1, 300), st.integers(1, 30), st.integers(1, 7), st.integers(0, 9), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_rolled_streams_score_every_token_once_an_epoch(
    tmp_path_factory, n, length, streams, epoch, seed
) -> None:
    folder = tmp_path_factory.mktemp("rolled")
    np.save(folder / "tokens.npy", np.arange(n + 1, dtype=np.uint16))
    np.save(folder / "documents.npy", np.array([0, n // 2, n + 1]))
    cut = Rows(length, "streams", streams=streams, roll=True, seed=seed, reset=True)
    whole = TokenSplit(cache.Part(folder, "test", ""), cut, TokenizerPlace("byte"))
    split = whole.of_epoch(epoch)
    assert len(split) == len(whole)
    scored, begun = [], []
    for row in split:
        held = row["targets"] >= 0
        assert (row["targets"][held] == row["inputs"][held] + 1).all()
        scored += row["targets"][held].tolist()
        begun += row["inputs"][row["reset"]].tolist()
    assert sorted(scored) == list(range(1, n + 1))
    assert sorted(begun) == sorted({0, n // 2})
    for i in range(len(split) - streams):
        before, after = split[i], split[i + streams]
        if (after["targets"] >= 0).any():
            assert after["inputs"][0] == before["targets"][-1] % n, "the corpus is a circle"


def test_streams_begin_elsewhere_in_each_epoch_only_if_asked(tmp_path) -> None:
    still = corpus_split(tmp_path, Rows(16, "streams", streams=4))
    assert still.of_epoch(3) is still
    rolled = corpus_split(tmp_path, Rows(16, "streams", streams=4, roll=True))
    assert rolled.of_epoch(0) is rolled
    starts = [int(rolled.of_epoch(epoch)[0]["inputs"][0]) for epoch in range(6)]
    assert starts[0] == 0
    assert len(set(starts)) == 6
    again = pickle.loads(pickle.dumps(rolled.of_epoch(3)))
    assert (again[5]["inputs"] == rolled.of_epoch(3)[5]["inputs"]).all()
    assert (again.of_epoch(4)[5]["inputs"] == rolled.of_epoch(4)[5]["inputs"]).all()
    other = corpus_split(tmp_path, Rows(16, "streams", streams=4, roll=True, seed=1))
    assert starts[1] != int(other.of_epoch(1)[0]["inputs"][0])


def test_a_split_tells_how_many_rows_run_side_by_side(tmp_path) -> None:
    assert corpus_split(tmp_path, Rows(16, "streams", streams=4)).streams == 4
    assert corpus_split(tmp_path, Rows(16, streams=4)).streams == 0
