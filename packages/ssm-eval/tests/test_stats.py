from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_core.plugin.errors import UserError
from ssm_eval.compare import seeds_line
from ssm_eval.stats import holm, least_effect, paired, summarise

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


def test_a_paired_comparison_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 sqrt(3) with 2 degrees of freedom, for which the
    # distribution has a closed form: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.n, found.difference) == (3, 2.0)
    assert found.p == pytest.approx(1 - np.sqrt(12 / 14), rel=1e-12)
    # The 97.5 % quantile of t with 2 degrees of freedom is 4.302653 (any table).
    assert (found.low, found.high) == pytest.approx(
        (2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)), rel=1e-6
    )
    # Every ratio is 2, without spread.
    assert (found.ratio, found.ratio_low, found.ratio_high) == pytest.approx((2, 2, 2))


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=3, max_size=12))
def test_p_is_that_of_scipy(pairs):
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    if np.std(first - second) < 1e-6 * np.abs(first).max() or np.std(np.log(first / second)) < 1e-6:
        return  # nothing but rounding
    assert paired(first, second).p == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, rel=1e-6)
    on_ratio = paired(first, second, on="ratio")
    expected = scipy.stats.ttest_rel(np.log(first), np.log(second))
    assert on_ratio.p == pytest.approx(expected.pvalue, rel=1e-5)
    interval = expected.confidence_interval(0.95)
    assert (on_ratio.ratio_low, on_ratio.ratio_high) == pytest.approx(np.exp([*interval]), rel=1e-5)
    turned = paired(second, first)
    assert (turned.low, turned.high) == pytest.approx(
        (-paired(first, second).high, -paired(first, second).low)
    )


def test_what_pairs_cannot_say():
    one = paired([2.0], [1.0])
    assert (one.n, one.difference, one.ratio, one.p, one.low, one.ratio_high) == (
        1,
        1.0,
        2.0,
        None,
        None,
        None,
    )
    assert paired([-1.0, 3.0], [1.0, 2.0]).ratio is None
    with pytest.raises(UserError, match="2 values cannot be paired with 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="no values"):
        paired([], [])
    with pytest.raises(UserError, match="not all above 0"):
        paired([-1.0, 3.0], [1.0, 2.0], on="ratio")


@pytest.mark.parametrize(
    ("first", "second", "on"),
    [
        ([1.0, 2.0], [1.0, 2.0], "difference"),  # a run against itself
        ([2.0, 3.0], [1.0, 2.0], "difference"),
        ([0.3, 1.1, 0.7], [0.2, 1.0, 0.6], "difference"),  # 0.1 but for rounding
        ([0.3, 0.21, 7e-9], [0.1, 0.07, 7e-9 / 3], "ratio"),  # 3 but for rounding
    ],
)
def test_without_spread_there_is_no_p(first, second, on):
    found = paired(first, second, on=on)
    assert found.p is None
    assert found.difference == pytest.approx(np.mean(np.subtract(first, second)))


@pytest.mark.parametrize(("n", "comparisons"), [(2, 1), (3, 1), (3, 16), (15, 14)])
def test_the_least_effect_that_can_come_out_is_at_the_threshold(n, comparisons):
    least = least_effect(n, comparisons)
    spread = np.linspace(-1, 1, n)
    differences = spread / np.std(spread, ddof=1) + least
    p = scipy.stats.ttest_1samp(differences, 0).pvalue
    assert holm([p, *[1.0] * (comparisons - 1)])[0] == pytest.approx(0.05, rel=1e-6)
    assert least_effect(1, comparisons) is None


def test_holms_correction_by_hand():
    # In order 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.04, 0.06, 0.06, 0.06.
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_helps(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= min(1, len(p_values) * p) for p, c in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= 0)
