"""The maps of `ssm_serpent.reference`, row by row, as the operator gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_serpent.ops.resample_index import Maps
from ssm_serpent.reference import reference_index


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
    event, start = times.new_zeros(2, batch, n_points)
    inside = times.new_zeros(batch, n_points, window, dtype=torch.bool)
    ticks, point = times.new_zeros(inside.shape), times.new_zeros(batch, length - history)
    for b, (low, high) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        if high <= low:
            continue
        known, mode = max(history - low, 0), "causal" if causal else "nearest"
        # Only the sums of the ticks matter: the first may stand for all that lies before it.
        gaps = times[b, low:high].diff().tolist()
        ticks_before, phase = (1, int(times[b, history - 1])) if known else (int(times[b, low]), 0)
        row = reference_index([ticks_before, *gaps], window, mode, history=known, phase=phase)
        for k in range(row.n_points):
            tokens = [token + low for token in row.windows[k]]
            event[b, k] = row.events[k] + low
            # A window cut short by the beginning of the row ends where it should; any other one begins there.
            start[b, k] = tokens[-1] + 1 - window if causal else tokens[0]
            slots = torch.tensor(tokens) - start[b, k].cpu()
            inside[b, k, slots] = True
            ticks[b, k, slots] = torch.tensor(row.distances[k], device=ticks.device)
        point[b, max(low - history, 0) : high - history] = torch.tensor(row.points, device=point.device)
    return Maps(event, start, inside, ticks, point)
