"""Slope and correlation of paired values. Small samples, float64, nothing on a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pearson(x: Tensor, y: Tensor) -> float:
    """Return the linear correlation of x and y (n,); NaN if either does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else math.nan


def ranks(x: Tensor) -> Tensor:
    """Return the rank of each of x (n,), from 1; equals share the mean of theirs."""
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - (counts - 1) / 2).to(torch.float64)[inverse]


def spearman(x: Tensor, y: Tensor) -> float:
    """Return the correlation of the ranks of x and y (n,)."""
    return pearson(ranks(x), ranks(y))


def median(values: Tensor) -> float:
    """Return the median of those of (n,) that are finite, between the middle two of an even number; NaN if none is."""
    finite = values[values.isfinite()]
    return float(finite.quantile(0.5)) if len(finite) else math.nan


def slope(x: Tensor, y: Tensor) -> float:
    """Return the least-squares slope of log y over log x (n,), where both are above 0; NaN if x does not vary."""
    both = (x > 0) & (y > 0)
    u, w = torch.log(x[both]), torch.log(y[both])
    u = u - u.mean()
    squares = float(u @ u)
    return float(u @ w) / squares if squares > 0 else math.nan
