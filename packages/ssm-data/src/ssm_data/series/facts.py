"""What has to be known of a set of series before a model can be built for it; measured once, kept with the data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Elements that are looked at together, so that memory stays bounded."""

RESOLUTION = 1e-7
"""A spread below this share of the mean is what float32 cannot tell from none."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Shapes of all splits, and scale of the training split.

    Attributes:
        channels: Names of the channels.
        longest: Elements of the longest series of any split.
        ragged: Not all series are as long.
        missing: Some value of some split is missing.
        mean: Mean of each channel over the training split.
        std: Its standard deviation; 1 for a channel that does not change.
        unit: The gap that counts as one step, in the units of the times; None without times.
        classes: Names of the classes, in the order of their numbers; empty where numbers are asked for.
        targets: Names of the numbers that are asked for; empty where a class is.
        target_mean: Mean of each of them over the training split.
        target_std: Its standard deviation, 1 where it does not change.
    """

    channels: tuple[str, ...]
    longest: int
    ragged: bool
    missing: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: float | None = None
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def stored(self) -> NDArray[np.uint8]:
        """Return them as an array that the cache can hold."""
        return np.frombuffer(json.dumps(dataclasses.asdict(self)).encode(), np.uint8)

    @classmethod
    def read(cls, array: NDArray[np.uint8]) -> Facts:
        """Return what :meth:`stored` stored."""
        values: dict[str, Any] = json.loads(array.tobytes())
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def scale(values_nc: NDArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of (n, C), NaN left out; 0 and 1 where nothing is seen."""
    blocks = [values_nc[start : start + BLOCK] for start in range(0, len(values_nc), BLOCK)]
    seen = sum((np.isfinite(block).sum(0) for block in blocks), np.zeros(values_nc.shape[1]))
    mean = _total(blocks, np.zeros(values_nc.shape[1])) / np.maximum(seen, 1)
    variance = _total(blocks, mean, power=2) / np.maximum(seen, 1)
    std = np.sqrt(variance)
    std[std <= RESOLUTION * np.abs(mean)] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())


def _total(blocks: Sequence[NDArray], mean: NDArray, power: int = 1) -> NDArray:
    """Return the sum over (x - mean)^power, NaN left out."""
    total = np.zeros(len(mean))
    for block in blocks:
        away = block.astype(np.float64) - mean
        total += (np.where(np.isfinite(away), away, 0.0) ** power).sum(0)
    return total


def median_gap(times: NDArray, offsets: NDArray) -> float | None:
    """Return the median gap inside series laid end to end, or None if no series has two elements.

    Args:
        times: Their times (n,).
        offsets: Where each begins (series + 1,).
    """
    gaps = np.diff(times)
    inside = np.ones(len(gaps), bool)
    borders = offsets[1:-1] - 1
    inside[borders[(borders >= 0) & (borders < len(gaps))]] = False
    return float(np.median(gaps[inside])) if inside.any() else None
