"""The map from a token to its interval (eq. 13), with parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.protocols import Hint
from ssm_serpent.intervals import Intervals, intervals
from ssm_serpent.token_dot import token_dot


class IntervalMap(nn.Module):
    """u_l = lo + (hi - lo) sigmoid(w . x_l + b): one interval a token, for all its channels.

    Args:
        width: H, channels of a token.
        lo: Smallest interval, in units of the grid's spacing.
        hi: Largest.
        start: Interval of a token of zeros at the start, inside (lo, hi), or lo where both are one; None is the middle.

    Source: eq. (13), SeRpEnt, arXiv 2501.11729; see `ssm_serpent.intervals.intervals` for the readings.
    """

    def __init__(self, width: int, lo: float, hi: float, start: float | None = None) -> None:
        super().__init__()
        self.lo, self.hi, self.start = lo, hi, start
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw w as a linear layer does; b gives the start."""
        bound = len(self.weight) ** -0.5
        self.weight.uniform_(-bound, bound)
        share = 0.5
        if self.start is not None and self.lo < self.hi:
            share = (self.start - self.lo) / (self.hi - self.lo)
        self.bias.fill_(math.log(share / (1 - share)))

    def param_hints(self) -> dict[str, Hint]:
        """Both stay in float32, since they decide indices; the bias does not decay."""
        return {
            "weight": Hint(dtype=torch.float32),
            "bias": Hint(weight_decay=0.0, dtype=torch.float32),
        }

    def forward(self, x_bld: Tensor, mask_bl: Tensor | None = None) -> Intervals:
        """Return the intervals of tokens (B, L, H); True in the mask (B, L) is valid, padding at the end only."""
        with torch.autocast(x_bld.device.type, enabled=False):
            logits_bl = token_dot(x_bld, self.weight) + self.bias.double()
            spans = intervals(logits_bl, self.lo, self.hi, mask_bl)
        wide = torch.promote_types(torch.promote_types(x_bld.dtype, self.weight.dtype), torch.float32)
        return spans._replace(u_bl=spans.u_bl.to(wide))
