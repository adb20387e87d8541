"""The gate by itself: its weights, and u' from u on rows in which every element counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.opkit.checks import compute_dtype
from ssm_smr.ops import smr_gate
from ssm_smr.spec import SMRConfig
from ssm_smr.taps import convolve, convolve_gaps

OPEN = 3.0
"""Bias of an open gate: sigmoid(3) = 0.953."""


class Gate(nn.Module):
    """z = P(b + sum_i W_i u_{k-i} + sum_i v_i log dt_{k-i}),  u' = s sigmoid(z) u; without a sigmoid, u' = z.

    The map P and the gaps' weights v are there if the config asks for them.

    Args:
        width: Channels H.
        config: Memory length, mode, start.
    """

    def __init__(self, width: int, config: SMRConfig) -> None:
        super().__init__()
        h, tau = width, config.tau
        self.config = config
        self.weight = nn.Parameter(torch.empty((h, h, tau) if config.mode == "dense" else (h, tau)))
        self.gap_weight = nn.Parameter(torch.empty(h, tau)) if config.gap else None
        self.bias = nn.Parameter(torch.empty(h)) if config.bias else None
        self.pointwise = nn.Linear(h, h, bias=config.bias) if config.pointwise else None
        self.reset_parameters()

    @property
    def is_plain(self) -> bool:
        """Whether it is what the operation :func:`ssm_smr.smr_gate` computes in one pass."""
        return self.config.gate == "sigmoid" and self.gap_weight is None and self.pointwise is None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start that the config names."""
        init, own = self.config.init, (self.weight, self.gap_weight, self.bias)
        if self.pointwise is not None:
            self.pointwise.reset_parameters()
        if init == "default":
            # The gap counts as one more input channel.
            fan_in = math.prod(self.weight.shape[1:]) + (0 if self.gap_weight is None else self.config.tau)
            for parameter in own:
                if parameter is not None:
                    parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5)
            return
        last_bias = self.bias if self.pointwise is None else self.pointwise.bias
        for parameter in (*own, last_bias):
            if parameter is not None:
                parameter.zero_()
        if init == "open":
            assert last_bias is not None
            last_bias.fill_(OPEN)
        elif self.config.gate == "none":
            self._pass_through()

    def _pass_through(self) -> None:
        """Let the current input through the convolution, and the map after it, as it is."""
        if self.weight.ndim == 3:
            nn.init.eye_(self.weight[..., -1])
        else:
            self.weight[:, -1] = 1.0
        if self.pointwise is not None:
            nn.init.eye_(self.pointwise.weight)

    def empty(self, like: Tensor) -> dict[str, Tensor]:
        """Return what is remembered before the first element of rows like u (B, ..., H), in their precision.

        Returns:
            ``memory``, the tau - 1 inputs before (B, tau-1, H); ``log_gaps``, the logarithms of the gaps before them
            (B, tau-1), in float32 at least, for a gate that sees gaps. All zero.
        """
        rows, past = len(like), self.config.tau - 1
        found = {"memory": like.new_zeros(rows, past, like.shape[-1])}
        if self.gap_weight is not None:
            found["log_gaps"] = like.new_zeros(rows, past, dtype=compute_dtype(like))
        return found

    def gated(
        self,
        u_bld: Tensor,
        before: Mapping[str, Tensor],
        log_gaps_bl: Tensor | None = None,
        segment_bl: Tensor | None = None,
    ) -> Tensor:
        """Return u' of rows in which every element counts: computed in float32 at least, in the input's type.

        Args:
            u_bld: Input u (B, L, H).
            before: What :meth:`empty` returns, or the same of elements that came before, oldest first.
            log_gaps_bl: Logarithm of the gap before each element (B, L), for a gate that sees gaps.
            segment_bl: Id of the sequence that each element belongs to (B, L), those before being of sequence 0.
                Memory does not cross from one to the next. None is one sequence.

        Returns:
            u' (B, L, H).
        """
        if self.is_plain and segment_bl is None:
            return smr_gate(u_bld, self.weight, self.bias, before["memory"], gate_scale=self.config.scale)[0]
        with torch.autocast(u_bld.device.type, enabled=False):
            wide = compute_dtype(u_bld, self.weight)
            u, bias = u_bld.to(wide), None if self.bias is None else self.bias.to(wide)
            z = convolve(u, self.weight.to(wide), bias, before["memory"].to(wide), segment_bl)
            if self.gap_weight is not None and log_gaps_bl is not None:
                gaps = log_gaps_bl.to(wide), before["log_gaps"].to(wide)
                z = z + convolve_gaps(self.gap_weight.to(wide), *gaps, segment_bl)
            if self.pointwise is not None:
                after = None if self.pointwise.bias is None else self.pointwise.bias.to(wide)
                z = F.linear(z, self.pointwise.weight.to(wide), after)
            if self.config.gate == "sigmoid":
                z = self.config.scale * torch.sigmoid(z) * u
            return z.to(u_bld.dtype)
