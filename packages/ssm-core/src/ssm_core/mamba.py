"""What Mamba and Mamba-2 have in common: the convolution before the recurrence, the start of the steps, the block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.block import ResidualBlock
from ssm_core.in_place import next_gap
from ssm_core.ops import causal_conv1d, causal_conv1d_update
from ssm_core.protocols import Mixer, Side, State
from ssm_core.ragged import last_inputs, over_valid, valid


class ConvSSM(nn.Module):
    """A causal depthwise convolution with SiLU, then a recurrence on its output.

    Its state is ``{"conv": (B, W-1, H), "ssm": ...}``: the last inputs of the H convolved channels, and what the
    recurrence keeps.

    Args:
        ssm: The recurrence, of width D.
        taps: Length W of each channel's filter.
        bias: Whether the convolution has a bias.
        side: Widths of the tensors that come beside x, by name; they are convolved together with x.
        passed: Names among them that are not.
    """

    def __init__(
        self,
        ssm: Mixer,
        taps: int,
        *,
        bias: bool = True,
        side: Mapping[str, int] | None = None,
        passed: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.ssm = ssm
        self.side_widths = dict(side or {})
        self.convolved = {name: width for name, width in self.side_widths.items() if name not in passed}
        channels = ssm.d_model + sum(self.convolved.values())
        self.weight = nn.Parameter(torch.empty(channels, taps))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start of torch's own convolutions: uniform within 1 / sqrt(W)."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @property
    def d_model(self) -> int:
        """Width D."""
        return self.ssm.d_model

    @property
    def causal(self) -> bool:
        """The convolution looks back only, so the recurrence decides."""
        return self.ssm.causal

    @property
    def streaming(self) -> bool:
        """The convolution can always step, so the recurrence decides."""
        return self.ssm.streaming

    @property
    def takes_dt(self) -> bool:
        """Gaps pass by the convolution, which counts elements, to the recurrence."""
        return self.ssm.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"conv": (B, W-1, H), "ssm": ...}``, zeros."""
        (channels, taps), own = self.weight.shape, self.weight.dtype
        wide = torch.promote_types(torch.promote_types(dtype or own, own), torch.float32)
        conv = torch.zeros(batch_size, taps - 1, channels, device=device or self.weight.device, dtype=wide)
        return {"conv": conv, "ssm": self.ssm.init_state(batch_size, device=device, dtype=dtype)}

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
        """Convolve and scan a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`."""
        self._check_side(side)
        return over_valid(
            self._run,
            x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            state=state or None,
            init_state=lambda rows: self.init_state(rows, device=x_bld.device, dtype=x_bld.dtype),
            takes_dt=self.takes_dt,
            beside=side,
        )

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element (B, D)."""
        self._check_side(side)
        dt_b = next_gap(dt_b, state.get("gap"))
        joined = self._join(x_bd, side or {})
        joined, conv = causal_conv1d_update(joined, state["conv"], self.weight, self.bias, "silu")
        x_bd, side = self._part(joined, side or {})
        y_bd, ssm = self.ssm.step(x_bd, dt_b=dt_b, side=side or None, state=state["ssm"])
        return y_bd, {"conv": conv, "ssm": ssm}

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **side: Tensor,
    ) -> tuple[Tensor, State]:
        start: Any = state or self.init_state(len(x_bld), device=x_bld.device, dtype=x_bld.dtype)
        before, joined = start["conv"], self._join(x_bld, side)
        mixed, conv = causal_conv1d(joined, self.weight, self.bias, "silu", before)
        mask = None
        if lengths_b is not None:
            conv, mask = last_inputs(before, joined, lengths_b), valid(x_bld, lengths_b)
        x_bld, after = self._part(mixed, side)
        y_bld, ssm = self.ssm(x_bld, dt_bl=gaps_bl, mask_bl=mask, side=after or None, state=start["ssm"])
        return y_bld, {"conv": conv, "ssm": ssm}

    def _join(self, x: Tensor, side: Side) -> Tensor:
        return (
            torch.cat([x, *(side[name].to(x.dtype) for name in self.convolved)], -1) if self.convolved else x
        )

    def _part(self, joined: Tensor, side: Side) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.convolved:
            return joined, dict(side)
        x, *others = joined.split([self.d_model, *self.convolved.values()], -1)
        return x, {**side, **dict(zip(self.convolved, others, strict=True))}

    def _check_side(self, side: Side | None) -> None:
        found = {name: value.shape[-1] for name, value in (side or {}).items()}
        if found != self.side_widths:
            raise ValueError(
                f"beside x of width {self.d_model} come, as side, tensors of widths {self.side_widths or 'none'}, but "
                f"got {found or 'none'}"
            )


class MambaBlock(ResidualBlock):
    """A residual block that keeps its residual stream in float32 under autocast."""

    def forward(self, x_bld: Tensor, **given: Any) -> tuple[Tensor, State]:
        """Map (B, L, D) to (B, L, D); see :class:`ssm_core.protocols.Mixer`."""
        return super().forward(in_float32(x_bld), **given)

    def step(self, x_bd: Tensor, **given: Any) -> tuple[Tensor, State]:
        """Map one element (B, D) to (B, D)."""
        return super().step(in_float32(x_bd), **given)


def in_float32(x: Tensor) -> Tensor:
    """Return x in float32 if it is narrower and autocast is on; a model cast to a type as a whole keeps to it."""
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x


def draw_steps(number: int, low: float, high: float, floor: float) -> Tensor:
    """Draw steps (number,) log-uniformly in [low, high], none below floor; return what softplus maps to them."""
    dt = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * torch.rand(number)).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))


def output_map(width: int, d_model: int, *, bias: bool, n_layers: int) -> nn.Linear:
    """Return the map onto the residual stream, its start divided by sqrt(n_layers), its bias zero."""
    linear = nn.Linear(width, d_model, bias=bias)
    with torch.no_grad():
        linear.weight /= math.sqrt(n_layers)
        if bias:
            linear.bias.zero_()
    return linear
