from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_core.plugin.errors import UserError
from ssm_eval.compare import seeds_line
from ssm_eval.stats import summarise

results = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@settings(deadline=None)
@given(values=results, level=st.floats(0.5, 0.999))
def test_interval_is_students(values, level):
    found = summarise(values, level)
    mean, std = np.mean(values), np.std(values, ddof=1)
    half = scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1) * std / np.sqrt(len(values))
    assert found.n == len(values)
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(std, rel=1e-6, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(values=results, factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_interval_moves_with_the_unit(values, factor, shift):
    one, other = summarise(values), summarise([factor * value + shift for value in values])
    assert other.low == pytest.approx(factor * one.low + shift, rel=1e-6, abs=1e-6)
    assert other.high == pytest.approx(factor * one.high + shift, rel=1e-6, abs=1e-6)


def test_one_value_has_no_spread():
    found = summarise([0.5])
    assert (found.n, found.mean, found.std, found.low, found.high) == (1, 0.5, None, None, None)
    assert str(found) == "0.5 (one value: no interval)"


def test_equal_values_have_no_width():
    found = summarise([2.0, 2.0, 2.0])
    assert (found.std, found.low, found.high) == (0.0, 2.0, 2.0)


def test_line_about_seeds():
    line = seeds_line([0.00341, 0.00352, 0.0033])
    assert line == "3 seeds: 0.00341, std 0.00011, 95 % interval 0.003137 to 0.003683"
    assert seeds_line([0.5]) == "1 seed: 0.5 (one value: no interval)"


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "no values"),
        ([1.0, float("nan")], 0.95, "value 2 of 2 is nan"),
        ([float("inf")], 0.95, "value 1 of 1 is inf"),
        ([1.0], 1.0, "confidence level of 1.0"),
        ([1.0], 95, "confidence level of 95"),
    ],
)
def test_what_has_no_mean_is_refused(values, level, message):
    with pytest.raises(UserError, match=message):
        summarise(values, level)
