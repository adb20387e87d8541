from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.random import default_rng

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.mqar.draw import draw, raced
from ssm_data.mqar.spec import MQARConfig

SMALL = {"length": 32, "pairs": 4, "vocabulary": 64, "n_train": 40, "n_validation": 8, "n_test": 8}


class TestSmall(TaskSuite):
    task = "mqar"
    config: ClassVar = SMALL


class TestFull(TaskSuite):
    task = "mqar"
    config: ClassVar = {**SMALL, "length": 16, "vocabulary": 10, "power": 1.0}


def answers_by_hand(tokens: list[int], size: int) -> list[int]:
    """Read a row as one would: remember what followed each key, and say it when the key comes again."""
    memory: dict[int, int] = {}
    said = []
    for place, token in enumerate(tokens):
        key = 1 <= token < size // 2
        if key and token in memory:
            said.append(memory[token])
        else:
            said.append(-100)
            if key:
                memory[token] = tokens[place + 1]
    return said


@pytest.mark.parametrize(
    "changed", [{}, {"vocabulary": 11, "power": 1.0}, {"pairs": 8}, {"length": 64, "pairs": 1}]
)
def test_labels_are_those_of_a_reader(changed: dict[str, int]) -> None:
    split = ssm_data.load("mqar", "train", **{**SMALL, **changed})
    size = {**SMALL, **changed}["vocabulary"]
    for i in range(len(split)):
        row = split[i]
        assert row["targets"].tolist() == answers_by_hand(row["inputs"].tolist(), size)


def test_rows_are_laid_out_as_published() -> None:
    k, size = SMALL["pairs"], SMALL["vocabulary"]
    split = ssm_data.load("mqar", "train", **SMALL)
    for i in range(len(split)):
        tokens, targets = split[i]["inputs"].astype(int), split[i]["targets"]
        keys, values, rest = tokens[0 : 2 * k : 2], tokens[1 : 2 * k : 2], tokens[2 * k :]
        assert len(set(keys)) == len(set(values)) == k
        assert ((keys >= 1) & (keys < size // 2)).all()
        assert ((values >= size // 2) & (values < size)).all()
        assert sorted(rest[rest > 0]) == sorted(keys)
        assert (rest[1::2] == 0).all(), "asked at an odd place"
        assert (targets[: 2 * k] == -100).all()
        assert (targets != -100).sum() == k


def test_every_key_and_value_is_used_alike() -> None:
    made = draw(default_rng(0), 20_000, {"length": 32, "pairs": 4, "vocabulary": 20, "power": 1.0})
    keys = np.bincount(made["inputs"][:, 0:8:2].ravel(), minlength=20)
    values = np.bincount(made["answers"].ravel(), minlength=20)
    assert keys[1:10] / 80_000 == pytest.approx(np.full(9, 1 / 9), abs=0.006)
    assert values[10:] / 80_000 == pytest.approx(np.full(10, 1 / 10), abs=0.006)
    assert keys[0] == keys[10:].sum() == values[:10].sum() == 0


def test_slots_follow_the_power_law() -> None:
    """The first to be drawn has the law itself, and the second that of what is left."""
    slots, power, n = 6, 0.01, 60_000
    weight = np.arange(1, slots + 1) ** (power - 1.0)
    weight /= weight.sum()
    found = raced(default_rng(0), n, 2, slots, power)
    assert np.bincount(found[:, 0], minlength=slots) / n == pytest.approx(weight, abs=0.01)
    pairs = np.zeros((slots, slots))
    np.add.at(pairs, (found[:, 0], found[:, 1]), 1 / n)
    expected = weight[:, None] * weight / (1 - weight[:, None]) * (1 - np.eye(slots))
    assert pairs == pytest.approx(expected, abs=0.01)
    even = raced(default_rng(0), n, 3, slots, 1.0)
    assert np.bincount(even.ravel(), minlength=slots) / (3 * n) == pytest.approx(np.full(6, 1 / 6), abs=0.01)


def test_batches_keep_tokens_small_and_labels_everywhere() -> None:
    task = registry.build_task("mqar", SMALL)
    split = task.splits()["test"]
    batch = task.collate([split[i] for i in range(3)])
    assert (batch.inputs.dtype, batch.inputs.shape) == (torch.uint8, (3, 32))
    assert (batch.targets.dtype, batch.targets.shape) == (torch.int64, (3, 32))
    assert batch.mask_bl is None
    assert task.needs.causal
    assert (task.max_length, task.vocabulary_size) == (32, 64)
    assert split.vocabulary[:2] == ["blank", "1"]
    assert len(split.vocabulary) == 64


def test_accuracy_is_of_single_answers() -> None:
    task = registry.build_task("mqar", SMALL)
    split = task.splits()["test"]
    batch = task.collate([split[i] for i in range(8)])
    right = torch.nn.functional.one_hot(batch.targets[batch.targets != -100], 64).float() * 50
    output = type("Output", (), {"head": right})
    found = task.predictions(output, batch)
    assert found["prediction"].shape == (32, 64)
    assert (found["prediction"].argmax(-1) == found["target"]).all()
    total, weight = task.loss(output, batch)
    assert weight == 32
    assert total < 1e-3


def test_info_describes_what_is_stored() -> None:
    described = info("mqar", **SMALL)["splits"]["train"]
    assert described["size"] == 40
    assert {name: row["shape"] for name, row in described["arrays"].items()} == {
        "inputs": [40, 32],
        "answers": [40, 4],
        "positions": [40, 4],
    }


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"length": 33}, "even"),
        ({"length": 14}, "at least 4"),
        ({"pairs": 0}, "at least one"),
        ({"vocabulary": 9}, "3 keys"),
        ({"power": 0.0}, "above 0"),
        ({"seed": -1}, "negative"),
        ({"n_test": 0}, "at least one row"),
        ({"pair": 3}, "did you mean 'pairs'"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("mqar", {**SMALL, **given})


def test_every_knob_is_documented() -> None:
    assert set(field_docs(MQARConfig)) == {knob["name"] for knob in knobs(MQARConfig)}
