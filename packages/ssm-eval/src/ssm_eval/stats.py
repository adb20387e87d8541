"""Statistics over seeds: mean, sample standard deviation, confidence interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ssm_core.plugin.errors import UserError


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
