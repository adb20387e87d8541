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
from ssm_data.induction_heads.draw import draw
from ssm_data.induction_heads.spec import SPEC, InductionHeadsConfig

SMALL = {"length": 16, "vocabulary": 8, "n_train": 30, "n_validation": 6, "n_test": 6}


class TestSmall(TaskSuite):
    task = "induction-heads"
    config: ClassVar = SMALL


class TestLongerTests(TaskSuite):
    task = "induction-heads"
    config: ClassVar = {**SMALL, "test_length": 40}


@pytest.mark.parametrize(
    "changed", [{}, {"length": 3}, {"vocabulary": 3}, {"length": 500, "vocabulary": 400}]
)
def test_the_answer_is_what_followed_the_special_token(changed: dict[str, int]) -> None:
    given = {**SMALL, **changed}
    split = ssm_data.load("induction-heads", "train", **given)
    special = given["vocabulary"] - 1
    for i in range(len(split)):
        tokens, targets = split[i]["inputs"].tolist(), split[i]["targets"].tolist()
        first, second = [place for place, token in enumerate(tokens) if token == special]
        assert second == given["length"] - 1
        assert targets == [-100] * second + [tokens[first + 1]]
        assert targets[-1] != special


def test_answers_and_places_are_uniform() -> None:
    made = draw(default_rng(0), 40_000, {"length": 12, "vocabulary": 8})
    answers = np.bincount(made["answers"].ravel(), minlength=8) / 40_000
    assert answers[:7] == pytest.approx(np.full(7, 1 / 7), abs=0.008)
    places = np.bincount((made["inputs"] == 7).argmax(axis=1), minlength=12) / 40_000
    assert places[:10] == pytest.approx(np.full(10, 0.1), abs=0.008)
    assert places[10:].sum() == 0


def test_only_the_test_rows_follow_the_test_length() -> None:
    short, long = (registry.build_task("induction-heads", {**SMALL, "test_length": n}) for n in (None, 33))
    assert (short.max_length, long.max_length) == (16, 33)
    lengths = {name: len(split[0]["inputs"]) for name, split in long.splits().items()}
    assert lengths == {"train": 16, "validation": 16, "test": 33}
    assert long.splits()["train"].part == short.splits()["train"].part


@pytest.mark.slow
def test_a_row_of_a_million_tokens() -> None:
    split = ssm_data.load("induction-heads", "test", **{**SMALL, "test_length": 1 << 20, "n_test": 2})
    row = split[1]
    assert row["inputs"].shape == (1 << 20,)
    first = int((row["inputs"] == 7).argmax())
    assert row["targets"][-1] == row["inputs"][first + 1]


def test_published_figures_are_of_lengths() -> None:
    assert {dict(row.settings)["test_length"] for row in SPEC.published} >= {"None", "1048576"}
    assert all(row.value == 1 for row in SPEC.published)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"length": 2}, "length = 2"),
        ({"test_length": 2}, "test_length = 2"),
        ({"vocabulary": 2}, "two others"),
        ({"seed": -1}, "negative"),
        ({"n_validation": 0}, "at least one row"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("induction-heads", {**SMALL, **given})


def test_every_knob_is_documented() -> None:
    assert set(field_docs(InductionHeadsConfig)) == {knob["name"] for knob in knobs(InductionHeadsConfig)}
