"""The definition of the index maps, read off the paper: plain Python, whole numbers, no cleverness.

Slow (every token is compared with every point) and complete in itself; the fast maps are tested for equality with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

TICKS = 1 << 20


class ReferenceIndex(NamedTuple):
    """Index maps of one row. Tokens count from 0, points from 1 (point k is entry k - 1); ticks are 2^-20 units.

    Attributes:
        n_points: K, the number of points.
        events: c_k per point, the first token whose time reaches k, or the last token.
        windows: the tokens in the window of each point, in temporal order; at most W.
        distances: S - k for each of those tokens, in ticks.
        points: q(l) per token after the history, 0 for none.
    """

    n_points: int
    events: list[int]
    windows: list[list[int]]
    distances: list[list[int]]
    points: list[int]


def reference_index(
    ticks: Sequence[int],
    window: int,
    mode: Literal["nearest", "causal"],
    *,
    history: int = 0,
    phase: int = 0,
) -> ReferenceIndex:
    """Compute the index maps of one row by brute force.

    Args:
        ticks: the interval of each valid token, in ticks, each in [1, 2^20].
        window: W, at least 1.
        mode: "nearest" or "causal", as in `ssm_serpent.index.resample_index`.
        history: tokens from the first on that lie before the start: they are held by windows and do nothing else.
        phase: time of the start in ticks since the last grid point; points are counted from there.

    Returns:
        The index maps.
    """
    times = [time - sum(ticks[:history]) + phase for time in accumulate(ticks)]
    tokens = range(len(times))
    later = tokens[history:]
    count = _count(times[-1] if later else 0, mode)
    events, windows, points = [], [], []
    for k in range(1, count + 1):
        reached = [l for l in later if times[l] >= k * TICKS]
        events.append(reached[0] if reached else tokens[-1])
        if mode == "causal":
            windows.append([l for l in tokens if events[-1] - window < l <= events[-1]])
        else:
            by_distance = sorted(tokens, key=lambda l, k=k: (abs(times[l] - k * TICKS), l))
            windows.append(sorted(by_distance[:window]))
    for time in times[history:]:
        if mode == "causal":
            points.append(max((k for k in range(1, count + 1) if k * TICKS <= time), default=0))
        else:
            points.append(min(range(1, count + 1), key=lambda k, time=time: (abs(time - k * TICKS), k)))
    gaps = [[times[l] - k * TICKS for l in block] for k, block in enumerate(windows, start=1)]
    return ReferenceIndex(count, events, windows, gaps, points)


def _count(end: int, mode: str) -> int:
    """Count the points of a row that ends at `end` ticks.

    Causal: the multiples of a unit that were reached. Nearest: go on while the next point is nearer to the end than
    the last one is (an end half way between stays with the earlier), with one point at least.
    """
    if end == 0:
        return 0
    count = 0
    if mode == "causal":
        while (count + 1) * TICKS <= end:
            count += 1
        return count
    while abs(end - (count + 1) * TICKS) < abs(end - count * TICKS):
        count += 1
    return max(1, count)
