"""Statistics over seeds: mean, spread, confidence interval of the mean; paired comparison, and its correction."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ssm_core.plugin.errors import UserError

ROUNDING = 8 * sys.float_info.epsilon
"""Spread of what differs by rounding alone, for numbers about 1."""


@dataclass(frozen=True)
class Summary:
    """What several seeds say about a value. One seed says nothing of the spread: that is None, not zero.

    Attributes:
        n: Number of values.
        mean: Their mean.
        std: Sample standard deviation (divided by n - 1), None for one value.
        low: Lower end of the confidence interval of the mean, None for one value.
        high: Upper end, None for one value.
        level: Confidence level of the interval.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    level: float

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.4g} (one value: no interval)"
        interval = f"{100 * self.level:g} % interval {self.low:.4g} to {self.high:.4g}"
        return f"{self.mean:.4g}, std {self.std:.2g}, {interval}"


def summarise(values: Iterable[float], level: float = 0.95) -> Summary:
    """Summarise the results of several seeds.

    Args:
        values: One result a seed, at least one.
        level: Confidence level, between 0 and 1.

    Returns:
        Mean, spread and the interval ``mean ± t std / sqrt(n)``, t the quantile of Student's distribution with n - 1
        degrees of freedom: it assumes that results are roughly normal over seeds.

    Raises:
        UserError: If there is no value, one is not finite, or the level is not between 0 and 1.
    """
    values = [float(value) for value in values]
    if not 0 < level < 1:
        raise UserError(f"a confidence level of {level} does not lie between 0 and 1", "for example 0.95")
    if not values:
        raise UserError("there are no values to summarise")
    for place, value in enumerate(values, 1):
        if not math.isfinite(value):
            raise UserError(
                f"value {place} of {len(values)} is {value}: no mean can be given", "leave that run out"
            )
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean, None, None, None, level)
    from scipy.special import stdtrit  # scipy.stats is slow to import and adds nothing here

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half, level)


@dataclass(frozen=True)
class Paired:
    """What pairs of values (one model against another, seed by seed) say about their difference.

    Attributes:
        n: Number of pairs.
        difference: Mean difference, the first less the second.
        low: Lower end of the confidence interval of the mean difference, None for one pair.
        high: Upper end, None for one pair.
        ratio: Geometric mean of the ratios, the first over the second; None if a value is not above 0.
        ratio_low: Lower end of its confidence interval, None for one pair.
        ratio_high: Upper end, None for one pair.
        p: Of the paired t test that the mean difference (or mean log ratio) is 0, two-sided; None for one pair, and
            where all pairs say the same but for rounding, for then there is no spread to hold the mean against.
        level: Confidence level of the intervals.
    """

    n: int
    difference: float
    low: float | None
    high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    p: float | None
    level: float


def paired(
    first: Iterable[float],
    second: Iterable[float],
    *,
    level: float = 0.95,
    on: Literal["difference", "ratio"] = "difference",
) -> Paired:
    """Compare values in pairs.

    Args:
        first: Results of what is in question.
        second: Those of what it is compared with, in the same order.
        level: Confidence level.
        on: What is tested: differences, taken to be roughly normal, or ratios, taken to be roughly log-normal.

    Returns:
        Means, their intervals, and p of Student's paired t test with n - 1 degrees of freedom.

    Raises:
        UserError: If there is no pair, one side has more values, one is not finite, or a ratio is asked of values
            that are not above 0.
    """
    first, second = [float(value) for value in first], [float(value) for value in second]
    if len(first) != len(second):
        raise UserError(
            f"{len(first)} values cannot be paired with {len(second)}", "leave out those without a partner"
        )
    differences = summarise((a - b for a, b in zip(first, second, strict=True)), level)
    positive = min(*first, *second) > 0
    if on == "ratio" and not positive:
        raise UserError("a ratio is asked of values that are not all above 0", "compare differences")
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)] if positive else []
    ratios = summarise(logs, level) if positive else None
    if on == "difference" or ratios is None:
        p = _p_value(differences, max(map(abs, [*first, *second])))
    else:
        p = _p_value(ratios, max(1.0, *map(abs, logs)))
    return Paired(
        n=differences.n,
        difference=differences.mean,
        low=differences.low,
        high=differences.high,
        ratio=_exp(ratios and ratios.mean),
        ratio_low=_exp(ratios and ratios.low),
        ratio_high=_exp(ratios and ratios.high),
        p=p,
        level=level,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p values that belong together, by Holm's step-down method.

    Args:
        p_values: One a comparison; None where there was too little to compare, which does not count.

    Returns:
        Corrected values in the same order: with a threshold a on them, the chance of any false finding is at most a.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[place] = highest
    return corrected


def least_effect(n: int, comparisons: int = 1, alpha: float = 0.05) -> float | None:
    """Return the least ``|mean| / std`` of n differences with which one of several comparisons can come out.

    Args:
        n: Pairs of each comparison.
        comparisons: Comparisons that are corrected together: the first step of Holm's method asks for
            ``p <= alpha / comparisons``.
        alpha: Threshold of the corrected p.

    Returns:
        ``t / sqrt(n)``, t the two-sided quantile of Student's distribution with n - 1 degrees of freedom; None where
        there are fewer than two pairs, which have no p.
    """
    if n < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - alpha / (2 * max(1, comparisons)))) / math.sqrt(n)


def _p_value(summary: Summary, size: float) -> float | None:
    """Return p of the two-sided t test that the mean of the summarised values is 0.

    ``size`` is that of the numbers which these were computed from: a spread within their rounding is none.
    """
    if summary.std is None or summary.std <= ROUNDING * size:
        return None
    from scipy.special import stdtr

    t = abs(summary.mean) * math.sqrt(summary.n) / summary.std
    return 2 * float(stdtr(summary.n - 1, -t))


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
