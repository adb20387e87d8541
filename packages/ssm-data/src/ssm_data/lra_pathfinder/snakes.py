"""How curves are laid: dash after dash, none touching what is there, after the published algorithm.

Plain Python on arrays, which numba compiles where it is installed; both give the same curves, since all chance comes
from drawn numbers that are handed in and all angles from tables. All that is compiled stands in this one file: numba's
cache on disk notices changes in no other.

A dash is a row (y, x, direction): its stamp lies round the pixel (y, x). For the first dash of a curve that is its
tail; for a later one its end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssm_data.lra_pathfinder.geometry import DEGREES, Tables

F = TypeVar("F", bound=Callable[..., Any])

FULL = 1.8
"""Two dashes touch where the sum of their masks comes to this."""

TAKEN = 0.3
"""A pixel is taken where the mask is above this."""

LEAST_FREE = 0.01
"""No more curves are begun when a smaller share of the picture is free."""

TRIALS = 3
RETRIES = 5
FIRST_DRAWS = 2 + 2 * TRIALS
"""Numbers that the beginnings of two targets take."""


def helper(function: F) -> F:
    """Let compiled code call a function that stays plain Python for others."""
    if find_spec("numba") is None:
        return function
    from numba.extending import register_jitable

    return register_jitable(function)


def target_draws(dashes: int) -> int:
    """Return how many numbers in [0, 1) an attempt at two targets takes at most."""
    return FIRST_DRAWS + 2 * TRIALS * (dashes - 1)


def distractor_draws(dashes: int) -> int:
    """Return how many an attempt at one distractor takes at most."""
    return 2 * TRIALS + TRIALS * (dashes - 1)


@lru_cache(maxsize=2)
def kernels(compiled: bool) -> tuple[Callable[..., int], Callable[..., int]]:
    """Return :func:`lay_targets` and :func:`lay_distractors`, compiled (some ten seconds, cached on disk) or plain."""
    if not compiled:
        return lay_targets, lay_distractors
    import numba

    try:
        make = numba.njit(cache=True, nogil=True)
        return make(lay_targets), make(lay_distractors)
    except RuntimeError:  # no writable place for the cache
        make = numba.njit(nogil=True)
        return make(lay_targets), make(lay_distractors)


def lay_targets(
    u: NDArray[np.float64], t: Tables, dashes: int, mask: NDArray[np.float64], out: NDArray[np.int64]
) -> int:
    """Lay the two targets, growing in turn; any failure begins anew.

    Args:
        u: Numbers in [0, 1) (attempts, :func:`target_draws`).
        t: Tables.
        dashes: Of each target.
        mask: (size, size), overwritten: what is taken.
        out: (2, dashes, 3), overwritten: the dashes.

    Returns:
        Number of the attempt that succeeded, or -1.
    """
    for attempt in range(u.shape[0]):
        if _targets(u[attempt], t, dashes, mask, out):
            return attempt
    return -1


def lay_distractors(
    u: NDArray[np.float64],
    t: Tables,
    dashes: int,
    number: int,
    mask: NDArray[np.float64],
    out: NDArray[np.int64],
) -> int:
    """Lay distractors; one that fails five times is left out.

    Args:
        u: Numbers in [0, 1) (number * 5, :func:`distractor_draws`).
        t: Tables.
        dashes: Of each distractor.
        number: Of distractors.
        mask: (size, size), what is taken; added to.
        out: (number, dashes, 3), overwritten: the dashes of those that were laid, at the front.

    Returns:
        How many were laid.
    """
    laid = 0
    for which in range(number):
        for retry in range(RETRIES):
            tried = mask.copy()
            if _distractor(u[which * RETRIES + retry], t, dashes, tried, out[laid]):
                mask[:] = tried
                laid += 1
                break
    return laid


@helper
def _targets(u, t, dashes, mask, out):
    mask[:] = 0.0
    mask[: t.padding] = 1.0
    mask[-t.padding :] = 1.0
    mask[:, : t.padding] = 1.0
    mask[:, -t.padding :] = 1.0
    pivots = np.zeros((2, 2), np.int64)
    if not _first_seed(u, t, out, pivots) or not _second_seed(u, t, out, pivots):
        return False
    for dash in range(1, dashes):
        for snake in range(2):
            at = FIRST_DRAWS + TRIALS * (2 * (dash - 1) + snake)
            if not _extend(u[at : at + TRIALS], t, dash, mask, out[snake], pivots[snake]):
                return False
    # Only the second target's last dash: so the published code does it.
    _commit(mask, t, out[1, dashes - 1])
    return True


@helper
def _first_seed(u, t, out, pivots):
    direction = int(u[0] * DEGREES)
    start, stop = t.starts[direction], t.starts[direction + 1]
    if start == stop:
        return False
    place = t.places[start + int(u[1] * (stop - start))]
    return _begin(t, place[0], place[1], direction, out[0], pivots[0])


@helper
def _second_seed(u, t, out, pivots):
    for trial in range(TRIALS):
        direction = int(u[2 + 2 * trial] * DEGREES)
        step = t.ring[int(u[3 + 2 * trial] * DEGREES)]
        if _begin(t, out[0, 0, 0] + step[0], out[0, 0, 1] + step[1], direction, out[1], pivots[1]):
            return True
    return False


@helper
def _begin(t, y, x, direction, snake, pivot):
    """Put down a first dash, if its head and the first pivot are in the picture."""
    head_y, head_x = y + t.heads[direction, 0], x + t.heads[direction, 1]
    pivot[0] = head_y + t.backs[direction, 0]
    pivot[1] = head_x + t.backs[direction, 1]
    low = min(min(y, x), min(min(head_y, head_x), min(pivot[0], pivot[1])))
    high = max(max(y, x), max(max(head_y, head_x), max(pivot[0], pivot[1])))
    if low < 0 or high >= t.size:
        return False
    snake[0, 0], snake[0, 1], snake[0, 2] = y, x, direction
    return True


@helper
def _distractor(u, t, dashes, mask, snake):
    pivot = np.zeros(2, np.int64)
    if np.sum(mask <= TAKEN) < LEAST_FREE * t.size * t.size:
        return False
    begun = False
    for trial in range(TRIALS):
        direction = int(u[2 * trial] * DEGREES)
        free = _free_places(mask, t, direction)
        if len(free) == 0:
            return False
        place = free[int(u[2 * trial + 1] * len(free))]
        if _begin(t, place // t.size, place % t.size, direction, snake, pivot):
            begun = True
            break
    if not begun:
        return False
    for dash in range(1, dashes):
        at = 2 * TRIALS + TRIALS * (dash - 1)
        if not _extend(u[at : at + TRIALS], t, dash, mask, snake, pivot):
            return False
    _commit(mask, t, snake[dashes - 1])
    return True


@helper
def _free_places(mask, t, direction):
    """Numbers of the pixels (row by row) where a first dash in a direction meets nothing."""
    size = t.size
    taken = (mask > TAKEN).astype(np.uint8)
    taken[0], taken[size - 1], taken[:, 0], taken[:, size - 1] = 1, 1, 1, 1
    blocked = np.zeros((size, size), np.uint8)
    for point in range(t.body_size[direction]):
        dy, dx = t.body[direction, point]
        y0, y1, x0, x1 = max(0, -dy), size - max(0, dy), max(0, -dx), size - max(0, dx)
        blocked[y0:y1, x0:x1] |= taken[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
        blocked[:y0], blocked[y1:], blocked[:, :x0], blocked[:, x1:] = 1, 1, 1, 1
    return np.flatnonzero(blocked.ravel() == 0)


@helper
def _extend(u, t, dash, mask, snake, pivot):
    """Add a dash behind the last, whose mask is taken only then; say whether there was room."""
    direction = snake[dash - 1, 2]
    pivot[0] += t.advance[direction, 0]
    pivot[1] += t.advance[direction, 1]
    sums = np.zeros(len(t.candidates))
    total = 0.0
    for m in range(len(t.candidates)):
        weight = t.weights[direction, m]
        if weight > 0.0:
            total += weight * _room(mask, t, pivot[0] + t.candidates[m, 0], pivot[1] + t.candidates[m, 1])
        sums[m] = total
    if total < 1e-4:
        return False
    for trial in range(TRIALS):
        chosen = 0
        while chosen < len(sums) - 1 and sums[chosen] <= u[trial] * total:
            chosen += 1
        snake[dash, 0] = pivot[0] + t.candidates[chosen, 0]
        snake[dash, 1] = pivot[1] + t.candidates[chosen, 1]
        snake[dash, 2] = DEGREES + chosen
        if not _touches(mask, t, snake[dash]):
            _commit(mask, t, snake[dash - 1])
            return True
    return False


@helper
def _room(mask, t, y, x):
    """1 less the most that is taken round a point; 0 outside the picture."""
    if y < 0 or y >= t.size or x < 0 or x >= t.size:
        return 0.0
    most = 0.0
    for k in range(len(t.disc)):
        ny, nx = y + t.disc[k, 0], x + t.disc[k, 1]
        if 0 <= ny < t.size and 0 <= nx < t.size and mask[ny, nx] > most:
            most = mask[ny, nx]
            if most >= 1.0:
                return 0.0
    return 1.0 - most


@helper
def _window(t, y, x):
    """What of a stamp round a point lies in the picture: its rows and columns there, and in the stamp."""
    y0, y1 = max(0, y - t.half), min(t.size, y + t.half + 1)
    x0, x1 = max(0, x - t.half), min(t.size, x + t.half + 1)
    return y0, y1, x0, x1, y0 - y + t.half, x0 - x + t.half


@helper
def _touches(mask, t, dash):
    y0, y1, x0, x1, sy, sx = _window(t, dash[0], dash[1])
    stamp = t.masks[dash[2]]
    return np.max(mask[y0:y1, x0:x1] + stamp[sy : sy + y1 - y0, sx : sx + x1 - x0]) >= FULL


@helper
def _commit(mask, t, dash):
    y0, y1, x0, x1, sy, sx = _window(t, dash[0], dash[1])
    stamp = t.masks[dash[2]]
    mask[y0:y1, x0:x1] = np.maximum(mask[y0:y1, x0:x1], stamp[sy : sy + y1 - y0, sx : sx + x1 - x0])
