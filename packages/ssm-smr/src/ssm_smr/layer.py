"""SMR as a mixer round another: the gate, its memory, then the inner recurrence on the gated input."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from ssm_core.gaps import check_shapes
from ssm_core.protocols import LayerInfo, Make, Mixer, Side, State, Wrap
from ssm_smr.ops import smr_gate
from ssm_smr.ops.smr_gate.segments import gate_segments
from ssm_smr.spec import SMRConfig

DENSE_WARNING_WIDTH = 256
"""Widest layer for which dense mode keeps quiet: beyond it, the gate outweighs most recurrences."""


class SMR(nn.Module):
    """State Memory Replay round an inner mixer.

    Its state is ``{"memory": (B, tau-1, H), "inner": ...}``, the memory holding raw inputs u, not gated ones.

    Args:
        inner: What receives the gated input.
        config: Memory length, mode, start.
    """

    def __init__(self, inner: Mixer, config: SMRConfig) -> None:
        super().__init__()
        h = inner.d_model
        self.inner = inner
        self.config = config
        dense = config.mode == "dense"
        self.weight = nn.Parameter(torch.empty((h, h, config.tau) if dense else (h, config.tau)))
        self.bias = nn.Parameter(torch.empty(h)) if config.bias else None
        if dense and h > DENSE_WARNING_WIDTH:
            warnings.warn(
                f"smr: a dense gate at width {h} has {self.weight.numel():,} parameters a layer; "
                "--set addons.smr.mode=depthwise has "
                f"{h * config.tau:,}",
                stacklevel=2,
            )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start that the config names."""
        if self.config.init != "default":
            self.weight.zero_()
            if self.bias is not None:
                self.bias.fill_(3.0 if self.config.init == "open" else 0.0)
            return
        fan_in = math.prod(self.weight.shape[1:])
        bound = fan_in**-0.5
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @property
    def d_model(self) -> int:
        """Width H."""
        return self.inner.d_model

    @property
    def causal(self) -> bool:
        """The gate looks back only, so the inner mixer decides."""
        return self.inner.causal

    @property
    def streaming(self) -> bool:
        """The gate can always step, so the inner mixer decides."""
        return self.inner.streaming

    @property
    def takes_dt(self) -> bool:
        """Gaps pass by the gate, to the inner mixer."""
        return self.inner.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return an empty memory and the inner state; nothing if the inner mixer carries no state."""
        inner = self.inner.init_state(batch_size, device=device, dtype=dtype)
        if not self.causal:
            return ()
        shape = (batch_size, self.config.tau - 1, self.d_model)
        memory = torch.zeros(shape, device=device or self.weight.device, dtype=dtype or self.weight.dtype)
        return {"memory": memory, "inner": inner}

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Gate a sequence (B, L, H) and run the inner mixer on it; see :class:`ssm_core.protocols.Mixer`."""
        if not self.causal and state:
            raise ValueError(
                "smr round a bidirectional mixer carries no state: build the model with causal=True"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        memory = state["memory"] if state else None
        gated, memory = self._gate(x_bld, memory, mask_bl, reset_bl)
        inner = state["inner"] if state else None
        y_bld, inner = self.inner(
            gated, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, side=side, state=inner
        )
        return y_bld, ({"memory": memory, "inner": inner} if self.causal else ())

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Gate one element (B, H) and step the inner mixer: O(tau H), or O(tau H^2) if dense."""
        if not self.streaming:
            raise ValueError(
                "smr round a mixer that looks ahead cannot step: build the model with causal=True"
            )
        gated, memory = self._gate(x_bd[:, None], state["memory"], None, None)
        y_bd, inner = self.inner.step(gated[:, 0], dt_b=dt_b, side=side, state=state["inner"])
        return y_bd, {"memory": memory, "inner": inner}

    def _gate(
        self, u: Tensor, memory: Tensor | None, mask_bl: Tensor | None, reset_bl: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if mask_bl is None and reset_bl is None:
            gated, memory = smr_gate(u, self.weight, self.bias, memory, gate_scale=self.config.scale)
            return gated, memory.to(u)
        return gate_valid(u, self.weight, self.bias, memory, self.config.scale, mask_bl, reset_bl)


def gate_valid(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    memory: Tensor | None,
    gate_scale: float,
    mask_bl: Tensor | None,
    reset_bl: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gate only the valid elements, as if masked ones were not there and each reset began a new sequence.

    Args:
        u: Input (B, L, H); whatever stands in masked places has no effect.
        weight: As in :func:`ssm_smr.smr_gate`.
        bias: (H,) or None.
        memory: The tau - 1 valid inputs before (B, tau-1, H), or None.
        gate_scale: Factor on the sigmoid.
        mask_bl: True where valid (B, L), or None.
        reset_bl: True where memory is emptied before the element (B, L), or None.

    Returns:
        u' (B, L, H), zero where masked, and the last tau - 1 valid inputs since the last reset (B, tau-1, H).
    """
    tau, (batch, length, width) = weight.shape[-1], u.shape
    before = u.new_zeros(batch, tau - 1, width) if memory is None else memory.to(u)
    if length == 0:
        return u, before
    mask = torch.ones(batch, length, dtype=torch.bool, device=u.device) if mask_bl is None else mask_bl
    segment = torch.zeros_like(mask, dtype=torch.int64) if reset_bl is None else reset_bl.long().cumsum(1)
    # Valid elements first, in their order; masked ones, zeroed, behind them.
    order = torch.argsort(~mask, dim=1, stable=True)
    wide = order[..., None].expand(-1, -1, width)
    packed = torch.where(mask[..., None], u, torch.zeros_like(u)).gather(1, wide)
    segment_packed = segment.gather(1, order)
    gated = gate_segments(packed, weight, bias, before, gate_scale, segment_packed)
    back = torch.argsort(order, dim=1)[..., None].expand(-1, -1, width)
    # In (memory, packed) the last tau - 1 valid inputs stand right after the first count_b entries.
    last = mask.sum(1, keepdim=True) + torch.arange(tau - 1, device=u.device)
    kept = torch.cat([before, packed], 1).gather(1, last[..., None].expand(-1, -1, width))
    owner = nn.functional.pad(segment_packed, (tau - 1, 0)).gather(1, last)
    return gated.gather(1, back), kept.masked_fill((owner != segment[:, -1:])[..., None], 0)


def build(config: SMRConfig) -> Wrap:
    """Return the wrapper that puts SMR round one recurrence."""

    def wrap(make: Make, width: int, layer: LayerInfo) -> Mixer:
        return SMR(make(width), config)

    return wrap
