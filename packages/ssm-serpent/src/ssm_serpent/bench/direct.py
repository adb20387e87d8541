"""The equations read directly: a table of distances from every point to every token, and the W smallest of each row.

What one would write first, correct up to the rounding of float32 times, and the yardstick of the bench: O(B K L).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_serpent.intervals import TICKS, Intervals


class DirectIndex(NamedTuple):
    """Maps of whole rows, without padding.

    Attributes:
        token_bkw: (B, K, W) int64, the tokens of each window in order.
        distance_bkw: (B, K, W) float.
        valid_bk: (B, K) bool, rows in use.
        point_bl: (B, L) int64, the row of the point that a token reads.
    """

    token_bkw: Tensor
    distance_bkw: Tensor
    valid_bk: Tensor
    point_bl: Tensor


def direct_index(spans: Intervals, window: int) -> DirectIndex:
    """Find the W tokens nearest to each point, and the point nearest to each token (eqs. 12a, 15a)."""
    running_bl = spans.u_bl.cumsum(1)
    time_bl = spans.times_bl.to(spans.u_bl.dtype) / TICKS + (running_bl - running_bl.detach())
    count_b = (time_bl[:, -1].detach() - 0.5).ceil().clamp(min=1)
    k = torch.arange(1, int(count_b.max()) + 1, device=time_bl.device)
    valid_bk = k <= count_b[:, None]
    with torch.no_grad():
        table_bkl = (time_bl[:, None] - k[:, None]).abs_()
        token_bkw = table_bkl.topk(window, 2, largest=False).indices.sort(2).values
        point_bl = table_bkl.masked_fill_(~valid_bk[..., None], torch.inf).argmin(1)
    time_bkw = time_bl.gather(1, token_bkw.flatten(1)).view(token_bkw.shape)
    return DirectIndex(token_bkw, time_bkw - k[:, None], valid_bk, point_bl)


def direct_encode(
    x_bld: Tensor, index: DirectIndex, weight: Tensor, bias: Tensor, centres: Tensor, log_gamma: Tensor
) -> Tensor:
    """Lay all windows side by side, with their basis functions, and map them (eqs. 12a, 12b): (B, K, h)."""
    rows = torch.arange(len(x_bld), device=x_bld.device)[:, None, None]
    gap_bkwg = index.distance_bkw[..., None] - centres
    e_bkwg = torch.exp(-log_gamma.exp() * gap_bkwg.square())
    slots = torch.cat([x_bld[rows, index.token_bkw], e_bkwg], 3)
    out = torch.nn.functional.linear(slots.flatten(2), weight.flatten(1), bias)
    return out * index.valid_bk[..., None]


def direct_spread(y_bkh: Tensor, index: DirectIndex) -> Tensor:
    """Copy the nearest point to each token (eq. 15a): (B, L, h)."""
    return y_bkh.gather(1, index.point_bl[..., None].expand(-1, -1, y_bkh.shape[2]))
