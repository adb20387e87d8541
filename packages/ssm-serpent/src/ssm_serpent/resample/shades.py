"""One colour for each interval, short ones white and long ones orange, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

STEPS = 10

SHADES = [
    tuple(round(255 + (end - 255) * step / (STEPS - 1)) for end in (240, 140, 50)) for step in range(STEPS)
]
"""(red, green, blue) of each step; black is readable on all of them."""


def steps(intervals: Sequence[float]) -> list[int]:
    """Return the step, from 0, of each interval between the smallest and the largest."""
    low, high = min(intervals, default=0.0), max(intervals, default=0.0)
    if high <= low:
        return [0] * len(intervals)
    return [min(STEPS - 1, int(STEPS * (value - low) / (high - low))) for value in intervals]
