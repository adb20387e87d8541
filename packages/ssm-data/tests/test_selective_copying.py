from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from numpy.random import default_rng

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError
from ssm_core.testing import TaskSuite
from ssm_data.selective_copying.draw import draw
from ssm_data.selective_copying.spec import SPEC, SelectiveCopyingConfig

SMALL = {"length": 20, "tokens": 4, "vocabulary": 8, "n_train": 30, "n_validation": 6, "n_test": 6}


class TestSmall(TaskSuite):
    task = "selective-copying"
    config: ClassVar = SMALL


class TestNoNoise(TaskSuite):
    task = "selective-copying"
    config: ClassVar = {**SMALL, "length": 4}


@pytest.mark.parametrize("changed", [{}, {"tokens": 1}, {"length": 4}, {"length": 300, "vocabulary": 300}])
def test_answers_are_the_tokens_in_order(changed: dict[str, int]) -> None:
    given = {**SMALL, **changed}
    split = ssm_data.load("selective-copying", "train", **given)
    length, m, marker = given["length"], given["tokens"], given["vocabulary"] - 1
    for i in range(len(split)):
        tokens, targets = split[i]["inputs"].tolist(), split[i]["targets"].tolist()
        body = [token for token in tokens[:length] if token != 0]
        assert len(tokens) == length + m
        assert tokens[length:] == [marker] * m
        assert targets == [-100] * length + body
        assert len(body) == m
        assert all(0 < token < marker for token in body)


def test_tokens_and_places_are_uniform() -> None:
    made = draw(default_rng(0), 20_000, {"length": 20, "tokens": 4, "vocabulary": 8})
    counts = np.bincount(made["answers"].ravel(), minlength=8) / 80_000
    assert counts[1:7] == pytest.approx(np.full(6, 1 / 6), abs=0.006)
    assert counts[0] == counts[7] == 0
    taken = (made["inputs"][:, :20] != 0).mean(axis=0)
    assert taken == pytest.approx(np.full(20, 0.2), abs=0.015)


def test_what_a_batch_is() -> None:
    task = registry.build_task("selective-copying", SMALL)
    split = task.splits()["validation"]
    assert task.needs.causal
    assert (task.max_length, task.vocabulary_size) == (24, 8)
    assert split.vocabulary == ["noise", "1", "2", "3", "4", "5", "6", "marker"]
    assert {k: (v.dtype.name, v.shape) for k, v in split[0].items()} == {
        "inputs": ("uint8", (24,)),
        "targets": ("int16", (24,)),
    }


def test_the_published_sizes_are_the_defaults() -> None:
    config = SelectiveCopyingConfig()
    assert (config.length, config.tokens, config.vocabulary) == (4096, 16, 16)
    assert {row.backbone: row.value for row in SPEC.published if row.backbone} == {
        "s6": 0.998,
        "h3": 0.57,
        "s4": 0.183,
    }


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"tokens": 0}, "tokens = 0"),
        ({"tokens": 21}, "between 1 and length = 20"),
        ({"vocabulary": 3}, "two tokens"),
        ({"seed": -1}, "negative"),
        ({"n_train": 0}, "at least one row"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("selective-copying", {**SMALL, **given})


def test_every_knob_is_documented() -> None:
    assert set(field_docs(SelectiveCopyingConfig)) == {knob["name"] for knob in knobs(SelectiveCopyingConfig)}
