"""Thresholds of a study: the size of a condition at which a metric is a multiple of what it was."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin.errors import ConfigError
from ssm_core.run.recipes import ShippedStudy
from ssm_train.study.reading import read_study
from ssm_train.study.report import threshold_rows
from ssm_train.study.thresholds import crossing, thresholds

SIZES = [0.0, 0.1, 0.4, 0.5]
TREE = {
    "settings": {"task": "toy", "backbone": "s5"},
    "axes": [{"name": "rate", "levels": {"low": {"optim": {"lr": 1e-3}}, "high": {"optim": {"lr": 0.1}}}}],
    "tests": [
        {"name": str(size), "x": size, **({"task": {"pause": size}} if size else {})} for size in SIZES
    ],
    "threshold": [{"name": "pause", "tests": [str(size) for size in SIZES]}],
}


def study(**changes):
    return read_study(ShippedStudy("mine", "", "", {**copy.deepcopy(TREE), **changes}))


def cell(level: str, *rows: list[float | None]) -> dict:
    """A cell of one row of values a seed, in the order of SIZES."""
    by_test = zip(map(str, SIZES), zip(*rows, strict=True), strict=True)
    tests = {name: {"mse": {"values": {str(s): v for s, v in enumerate(values)}}} for name, values in by_test}
    return {"levels": {"rate": level}, "tests": tests}


@given(
    st.floats(0.1, 5.0),
    st.floats(1.01, 8.0),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6, unique=True),
)
def test_an_exponential_crosses_where_it_does(slope, factor, sizes):
    """The logarithm is linear, so interpolation is exact; beyond the sizes nothing is said but that."""
    sizes = [0.0, *sorted(sizes)]
    exact = math.log(factor) / slope
    found = crossing(sizes, [0.3 * math.exp(slope * size) for size in sizes], factor)
    if exact < sizes[-1] * (1 - 1e-9):
        assert found == pytest.approx(exact)
    elif exact > sizes[-1] * (1 + 1e-9):
        assert found == math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 2.0, 2.0], 0.4),
        ([1.0, 4.0, 1.0, 9.0], 0.05),  # the first time counts
        ([1.0, 1.5, 1.9, 1.99], math.inf),
        ([1.0, None, 3.0, 4.0], None),  # it may have been there already
        ([1.0, 3.0, None, None], math.log(2) / math.log(3) * 0.1),
        ([None, 1.0, 2.0, 3.0], None),
        ([0.0, 1.0, 2.0, 3.0], None),
    ],
)
def test_first_crossing(values, expected):
    found = crossing(SIZES, values, 2.0)
    assert found == (None if expected is None else pytest.approx(expected))


def test_rows_are_of_cells_and_seeds():
    asked = study()
    cells = [
        cell("low", [1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0]),
        cell("high", [1.0, 1.0, 1.0, 1.0], [None, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    ]
    low, high = thresholds(asked, cells, "mse")
    assert low["values"] == {"0": pytest.approx(0.25), "1": None, "2": pytest.approx(0.1)}
    assert (low["median"], low["low"], low["high"]) == (pytest.approx(0.25), pytest.approx(0.1), None)
    assert high["values"] == {"0": None, "2": None}
    shown = threshold_rows({"thresholds": [low, high]})
    assert [(row["median"], row["least"], row["largest"], row["seeds"]) for row in shown] == [
        ("0.25", "0.1", "> 0.5", 3),
        ("> 0.5", "> 0.5", "> 0.5", 2),
    ]
    assert shown[0]["mse times"] == "2"


def test_what_has_no_run_has_no_row():
    nothing = {"levels": {"rate": "low"}, "tests": {str(size): {} for size in SIZES}}
    assert thresholds(study(), [nothing], "mse") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": ["0.0", "0.6"]}, "'0.6', which there is not"),
        ({"tests": ["0.0"]}, "two tests at least"),
        ({"tests": ["0.1", "0.0"]}, "larger x than the one before"),
        ({"factor": 1.0}, r"factor = 1\.0 .* above 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        study(threshold=[{**TREE["threshold"][0], **change}])


def test_a_test_without_a_place_is_refused():
    tests = [*TREE["tests"], {"name": "odd", "task": {"pause": 0.2}}]
    with pytest.raises(ConfigError, match="larger x than the one before"):
        study(tests=tests, threshold=[{"name": "pause", "tests": ["0.0", "odd"]}])
