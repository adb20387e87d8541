"""The index maps by searches in sorted rows, on any device: O(L + K W) memory, no K x L table."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_serpent.intervals import TICKS
from ssm_serpent.ops.resample_index import Maps


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
    k = torch.arange(1, n_points + 1, device=times.device)
    grid_bk = (k * TICKS).expand(len(times), -1)
    valid_bk = k <= count[:, None]
    event_bk = _count_below(times, grid_bk).minimum(end[:, None] - 1)
    start_bk = event_bk - (window - 1) if causal else _nearest_start(times, end, grid_bk, window)
    token_bkw = start_bk[:, :, None] + torch.arange(window, device=times.device)
    inside_bkw = (token_bkw >= first[:, None, None]) & (token_bkw < end[:, None, None]) & valid_bk[:, :, None]
    point_bl = points(times[:, history:], end - history, count, causal)
    # What a row that is not in use, or a slot that holds no token, says is nobody's business, but the same everywhere.
    event_bk, start_bk = (x.masked_fill(~valid_bk, 0) for x in (event_bk, start_bk))
    if times.shape[1] == 0:
        return Maps(event_bk, start_bk, inside_bkw, torch.zeros_like(token_bkw), point_bl)
    token_bkw.clamp_(0, times.shape[1] - 1)
    ticks_bkw = times.gather(1, token_bkw.flatten(1)).view_as(token_bkw) - grid_bk[:, :, None]
    return Maps(event_bk, start_bk, inside_bkw, ticks_bkw.masked_fill_(~inside_bkw, 0), point_bl)


def points(times: Tensor, end: Tensor, count: Tensor, causal: bool) -> Tensor:
    """q(l) (B, L): the last point within reach, or the nearest, ties to the earlier; 0 for padding."""
    padding_bl = torch.arange(times.shape[1], device=times.device) >= end[:, None]
    if causal:
        return (times // TICKS).masked_fill_(padding_bl, 0)
    nearest_bl = (times + (TICKS // 2 - 1)) // TICKS
    return nearest_bl.clamp_(min=1).minimum(count[:, None]).masked_fill_(padding_bl, 0)


def _nearest_start(times: Tensor, end: Tensor, grid_bk: Tensor, window: int) -> Tensor:
    """s_k (B, K) of the W nearest tokens: contiguous, because times are sorted.

    The block that starts at s gives way to the one at s + 1 once k is past the midpoint of the token it would drop
    and the token it would gain, and midpoints are sorted too: s_k is the number of them below k.
    """
    twice_mid_bs = times[:, :-window] + times[:, window:]
    start_bk = _count_below(twice_mid_bs, 2 * grid_bk)
    return start_bk.minimum((end - window).clamp(min=0)[:, None])


def _count_below(sorted_bn: Tensor, query_bk: Tensor) -> Tensor:
    return torch.searchsorted(sorted_bn.contiguous(), query_bk.contiguous())
