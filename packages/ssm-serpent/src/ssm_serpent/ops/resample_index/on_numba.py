"""The index maps in one pass a row: a pointer for the events, one for the windows, and neither ever goes back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_runtime import jit, launch
from ssm_serpent.ops.resample_index import Maps

_ROWS_ONLY = 1 << 30
"""Lanes of a launch that is not to be cut by columns."""


def forward(
    times: Tensor,
    first: Tensor,
    end: Tensor,
    count: Tensor,
    window: int,
    causal: bool,
    n_points: int,
    history: int,
) -> Maps:
    """Maps of a batch; arguments as those of `index_maps`."""
    batch, length = times.shape
    slots = batch, n_points, window
    event, start = times.new_empty(batch, n_points), times.new_empty(batch, n_points)
    inside = times.new_empty(slots, dtype=torch.bool)
    ticks, point = times.new_empty(slots), times.new_empty(batch, length - history)
    maps = Maps(event, start, inside, ticks, point)
    arrays = (x.numpy() for x in (times, first, end, count, *maps))
    offsets = np.arange(batch + 1, dtype=np.int64) * (length + n_points * window)
    launch(_maps, (*arrays, causal, history), offsets, 1, lanes=_ROWS_ONLY)
    return maps


@jit
def _maps(
    times,
    first,
    end,
    count,
    event,
    start,
    inside,
    ticks,
    point,
    causal,
    history,
    first_row,
    last_row,
    low,
    high,
):
    for b in range(first_row, last_row):
        _tokens(b, times, end[b], count[b], event, point, causal, history)
        _windows(b, times, first[b], end[b], count[b], event, start, inside, ticks, causal)
        for k in range(count[b], event.shape[1]):
            event[b, k] = 0
            start[b, k] = 0
            inside[b, k] = False
            ticks[b, k] = 0


@jit
def _tokens(b, times, end, count, event, point, causal, history):
    """Events, and the point of each token. A unit has 2^20 ticks, so whole units are a shift, which rounds down."""
    reached = 0
    for l in range(history, end):
        while reached < count and times[b, l] >= (reached + 1) << 20:
            event[b, reached] = l
            reached += 1
        if causal:
            point[b, l - history] = reached
        else:
            point[b, l - history] = min(max((times[b, l] + (1 << 19) - 1) >> 20, 1), count)
    for k in range(reached, count):
        event[b, k] = end - 1
    for l in range(max(end, history), times.shape[1]):
        point[b, l - history] = 0


@jit
def _windows(b, times, first, end, count, event, start, inside, ticks, causal):
    """A nearest window moves on while the token that it would gain is nearer than the one that it would drop."""
    window = inside.shape[2]
    s = 0
    for k in range(count):
        grid = (k + 1) << 20
        if causal:
            s = event[b, k] - window + 1
        else:
            while s + window < end and times[b, s] + times[b, s + window] < 2 * grid:
                s += 1
        start[b, k] = s
        for j in range(window):
            held = first <= s + j < end
            inside[b, k, j] = held
            ticks[b, k, j] = times[b, s + j] - grid if held else 0
