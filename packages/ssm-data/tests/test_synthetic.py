from __future__ import annotations

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from ssm_core.plugin import registry
from ssm_data.recall import RecallSplit
from ssm_data.synthetic import BLOCK, Drawn, distinct, generators, smallest

SIZES = {"n_train": 300, "n_validation": 140, "n_test": 5}
TASKS = {
    "mqar": {"length": 32, "pairs": 4, "vocabulary": 64},
    "selective-copying": {"length": 40, "tokens": 4, "vocabulary": 8},
    "induction-heads": {"length": 24, "vocabulary": 8},
    "sine": {"length": 16, "grid": "jittered"},
}
every_task = pytest.mark.parametrize("task", TASKS)


def splits(task: str, **changed: object):
    return registry.build_task(task, {**TASKS[task], **SIZES, **changed}).splits()


def arrays(task: str, split: str = "train", **changed: object) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in splits(task, **changed)[split].arrays.items()}


@settings(deadline=None)
@given(rows=st.integers(1, 20), among=st.integers(1, 30), data=st.data(), seed=st.integers(0, 9))
def test_distinct_numbers_are_distinct_and_in_range(rows, among, data, seed) -> None:
    n = data.draw(st.integers(1, among))
    found = distinct(default_rng(seed), rows, n, among)
    assert found.shape == (rows, n)
    assert ((found >= 0) & (found < among)).all()
    assert all(len(set(row)) == n for row in found.tolist())


@pytest.mark.parametrize(("n", "among"), [(2, 5), (3, 5), (3, 6), (4, 4)])
def test_every_ordered_choice_is_as_likely(n: int, among: int) -> None:
    rows = 40_000
    counts = Counter(map(tuple, distinct(default_rng(0), rows, n, among).tolist()))
    choices = list(itertools.permutations(range(among), n))
    expected = rows / len(choices)
    chi2 = sum((counts[choice] - expected) ** 2 / expected for choice in choices)
    free = len(choices) - 1
    assert abs(chi2 - free) < 5 * (2 * free) ** 0.5


@every_task
def test_a_small_split_is_the_beginning_of_a_large_one(task: str) -> None:
    few, more = (arrays(task, n_train=n) for n in (BLOCK + 7, 300))
    assert all(np.array_equal(few[name], more[name][: BLOCK + 7]) for name in few)


@every_task
def test_splits_share_nothing_and_seeds_matter(task: str) -> None:
    train, validation, other = (
        {row.tobytes() for row in arrays(task, split, **changed)["inputs"]}
        for split, changed in (("train", {}), ("validation", {}), ("train", {"seed": 1}))
    )
    assert (len(train), len(validation)) == (300, 140)
    assert not train & validation
    assert not train & other
    assert train == {row.tobytes() for row in arrays(task)["inputs"]}


def test_streams_of_splits_and_seeds_are_disjoint() -> None:
    first = {
        (seed, split, start): tuple(rng.integers(1 << 62, size=2))
        for seed in range(4)
        for split in ("train", "validation", "test")
        for start, rng in generators(seed, split, 5 * BLOCK)
    }
    assert len(first) == 4 * 3 * 5
    assert len(set(first.values())) == len(first)


def test_a_split_does_not_depend_on_the_others() -> None:
    made = []

    def draw(rng, n, knobs):
        made.append(knobs)
        return {"x": rng.random((n, knobs["width"]))}

    def plan(**changed):
        base = {"task": "plan", "version": 1, "seed": 0, "sizes": {"train": 200, "test": 3}, "draw": draw}
        return Drawn(**{**base, "knobs": {"width": 2}, **changed}).parts(None)

    first = plan()
    assert len(made) == 3
    again = plan(own={"test": {"width": 5}})
    assert len(made) == 4, "the training split was made anew"
    assert again["train"].folder == first["train"].folder
    assert (first["train"].open("x").shape, again["test"].open("x").shape) == ((200, 2), (3, 5))
    assert plan(version=2)["train"].folder != first["train"].folder
    assert len(made) == 7


@every_task
def test_progress_and_provenance(task: str, tmp_path) -> None:
    calls: list[tuple[str, int, int]] = []
    built = registry.build_task(task, {**TASKS[task], **SIZES, "seed": 5, "cache": str(tmp_path)})
    built.prepare(lambda *call: calls.append(call))
    assert [call[1:] for call in calls if "train" in call[0]] == [(128, 300), (256, 300), (300, 300)]
    before = len(calls)
    for split in built.splits().values():
        assert "regenerated" in split.provenance
        assert "seed 5" in split.provenance
    assert len(calls) == before
    assert (tmp_path / task).is_dir()


@every_task
def test_a_split_travels_as_its_place_on_disk(task: str) -> None:
    split = splits(task)["train"]
    sent = pickle.dumps(split)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert all(np.array_equal(again[7][key], value) for key, value in split[7].items())
    assert getattr(again, "vocabulary", None) == getattr(split, "vocabulary", None)


def test_types_are_as_small_as_can_be() -> None:
    assert [smallest(n) for n in (1, 256, 257, 1 << 16, (1 << 16) + 1)] == [
        np.uint8,
        np.uint8,
        np.uint16,
        np.uint16,
        np.int32,
    ]


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "labels"), [(40_000, "uint16", "int32"), (70_000, "int32", "int32")]
)
def test_large_vocabularies_keep_their_ids(vocabulary: int, tokens: str, labels: str) -> None:
    split = splits("mqar", vocabulary=vocabulary, n_train=130)["train"]
    assert isinstance(split, RecallSplit)
    row = split[0]
    assert (row["inputs"].dtype, row["targets"].dtype) == (tokens, labels)
    answers = np.concatenate([split[i]["targets"][split[i]["targets"] != -100] for i in range(130)])
    assert vocabulary // 2 <= answers.min() < answers.max() < vocabulary
    assert len(split.vocabulary) == vocabulary
