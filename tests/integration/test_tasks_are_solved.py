"""Tasks tell models apart: on three seeds, one that should solve a task does, and one that cannot does not.

What is asserted is a margin over a baseline that is named and computed here, not a figure to the last digit. Minutes a
run; the default recipes of the tasks are what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ssm_data
from ssm_core.run.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

Trained = Callable[..., list[float]]


def rows(task: str, split: str = "test", name: str = "default") -> Any:
    """Return a split as a recipe has it."""
    knobs = dict(recipe(name, task).tree["task"])
    del knobs["name"]
    return ssm_data.load(task, split, **knobs)


def test_associative_recall_needs_selection(trained: Trained) -> None:
    """Baseline: guess one of the row's values. S4D, whose memory does not depend on what it reads, stays near it."""
    split = rows("mqar")
    guess = float(np.mean([1 / (split[i]["targets"] != -100).sum() for i in range(len(split))]))
    selective, fixed = trained("mqar", "mamba2"), trained("mqar", "s4d")
    assert min(selective) > 0.8, selective
    assert max(fixed) < 0.3, fixed
    assert min(selective) > guess + 0.6


def test_induction_needs_selection(trained: Trained) -> None:
    """Baseline: one of the ordinary tokens."""
    guess = 1 / (len(rows("induction-heads").vocabulary) - 1)
    selective, fixed = trained("induction-heads", "mamba2"), trained("induction-heads", "s4d")
    assert min(selective) > 0.99, selective
    assert max(fixed) < guess + 0.25, fixed


def test_selective_copying_needs_selection(trained: Trained) -> None:
    """Baseline: one of the tokens, beside which S4D has its plateau."""
    guess = 1 / (len(rows("selective-copying").vocabulary) - 2)
    selective, fixed = trained("selective-copying", "mamba2"), trained("selective-copying", "s4d")
    assert min(selective) > max(fixed) + 0.2, (selective, fixed)
    assert min(selective) > guess + 0.5, selective


@pytest.mark.parametrize("backbone", ["s5", "s4d", "lru"])
def test_digits_are_read(trained: Trained, backbone: str) -> None:
    """Baselines: the commonest digit, and what counting grey values without their places allows.

    The latter by regression, and by a Transformer that sees one pixel at a time and no places: it cannot.
    """
    train, test = rows("digits", "train").arrays, rows("digits").arrays
    commonest = float((test["targets"] == np.bincount(train["targets"]).argmax()).mean())
    found = trained("digits", backbone)
    counted = without_places(train, test)
    assert min(found) > max(commonest + 0.7, counted + 0.2, 0.85), found
    bag = trained("digits", "transformer", settings={"backbone": {"window": 1, "positions": "none"}})
    assert max(bag) < min(*found, counted + 0.25) - 0.1, (bag, counted)


def without_places(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> float:
    """Accuracy of a logistic regression on how often each grey value occurs, as a model without order would see it."""
    from sklearn.linear_model import LogisticRegression

    counts = [np.stack([np.bincount(x, minlength=17) for x in split["inputs"]]) for split in (train, test)]
    model = LogisticRegression(max_iter=5000).fit(counts[0] / 64, train["targets"])
    return float(model.score(counts[1] / 64, test["targets"]))


def test_short_curves_are_followed(trained: Trained) -> None:
    """Baseline: a logistic regression on the pixels, which sees where there is light and not what it joins."""
    from sklearn.linear_model import LogisticRegression

    train, test = rows("lra-pathfinder", "train").arrays, rows("lra-pathfinder").arrays
    linear = LogisticRegression(C=0.01, max_iter=100).fit(
        train["inputs"][:40_000] / 255, train["targets"][:40_000]
    )
    baseline = float(linear.score(test["inputs"] / 255, test["targets"]))
    found = trained("lra-pathfinder", "s5")
    assert baseline < 0.56
    assert min(found) > baseline + 0.15, (found, baseline)


def test_sines_need_the_gaps(trained: Trained) -> None:
    """Baselines: a constant, which scores the variance of the targets, and the same model without the gaps."""
    constant = float(np.var(rows("sine").arrays["targets"]))
    true, ignored = (trained("sine", "s5", "mse", time=time) for time in ("true", "ignored"))
    assert max(true) < 0.5 * constant, (true, constant)
    assert max(true) < 0.8 * min(ignored), (true, ignored)


def test_pendulums_need_the_gaps(trained: Trained) -> None:
    """Baselines: a constant, 0.5, and the same model without the gaps."""
    true, ignored = (trained("pendulum", "s5", "mse", time=time) for time in ("true", "ignored"))
    assert max(true) < 0.02
    assert np.mean(true) < 0.8 * np.mean(ignored), (true, ignored)
