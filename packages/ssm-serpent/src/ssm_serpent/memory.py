"""What a causal branch remembers of the tokens before a chunk, so that its grid goes on where it stopped."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ragged import last_inputs
from ssm_serpent.index import Index
from ssm_serpent.intervals import TICKS, Intervals


class Memory(NamedTuple):
    """The tokens before a chunk: W - 1 places, the newest last, empty ones (0 ticks) first.

    Attributes:
        x_bwd: (B, W - 1, D), the tokens.
        ticks_bw: (B, W) int64. First the time at which the oldest place begins, counted from the last finished point
            and so mostly negative; then the interval of each place. Their sum is the time since that point.
        u_bw: (B, W) float, the same in units of the grid's spacing: only its gradient is used, which leads to the
            intervals of the tokens before.
    """

    x_bwd: Tensor
    ticks_bw: Tensor
    u_bw: Tensor

    @property
    def phase_b(self) -> Tensor:
        """Ticks since the last finished point (B,) int64, in [0, 2^20)."""
        return self.ticks_bw.sum(1)

    def before(self, x_bld: Tensor) -> Tensor:
        """Return the places and the chunk's tokens as one row (B, W - 1 + L, D)."""
        return torch.cat([self.x_bwd.to(x_bld.dtype), x_bld], 1)

    def before_spans(self, spans: Intervals) -> Intervals:
        """Return their intervals, for `resample_index` with a history of W - 1."""
        ticks_bl = torch.cat([self.ticks_bw[:, 1:], spans.ticks_bl], 1)
        u_bl = torch.cat([self.u_bw[:, 1:].to(spans.u_bl.dtype), spans.u_bl], 1)
        return Intervals(u_bl, ticks_bl, ticks_bl.cumsum(1), spans.length_b + self.x_bwd.shape[1])

    def reach_back(self, index: Index) -> Index:
        """Give distances the gradient of the tokens that are no longer remembered: all times come after theirs."""
        begin_b = self.u_bw[:, 0].to(index.distance_bkw.dtype)
        zero_b11 = (begin_b - begin_b.detach())[:, None, None]
        return index._replace(distance_bkw=index.distance_bkw + zero_b11.where(index.inside_bkw, 0.0))

    def after(self, x_bld: Tensor, spans: Intervals, count_b: Tensor, lengths_b: Tensor | None) -> Memory:
        """Return the memory behind the chunk (B, L, D), which finished K_b points and of which L_b tokens count."""
        x_bwd = last_inputs(self.x_bwd, x_bld, lengths_b)
        ticks_bw = _last(self.ticks_bw[:, 1:], spans.ticks_bl, lengths_b)
        u_bw = _last(self.u_bw[:, 1:], spans.u_bl, lengths_b)
        ticks_b = self.ticks_bw.sum(1) + spans.ticks_bl.sum(1) - TICKS * count_b - ticks_bw.sum(1)
        u_b = self.u_bw.sum(1) + spans.u_bl.sum(1).to(u_bw.dtype) - count_b - u_bw.sum(1)
        return Memory(x_bwd, torch.cat([ticks_b[:, None], ticks_bw], 1), torch.cat([u_b[:, None], u_bw], 1))


def _last(before_bw: Tensor, new_bl: Tensor, lengths_b: Tensor | None) -> Tensor:
    return last_inputs(before_bw[..., None], new_bl[..., None], lengths_b)[..., 0]
