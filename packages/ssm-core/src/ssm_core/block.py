"""The residual block: norm, mixer, channel mixing, dropout and skip connection."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.gaps import check_shapes
from ssm_core.norms import make_norm, normalise
from ssm_core.protocols import LayerInfo, Mixer, Side, State

Activation = Literal["half_glu1", "half_glu2", "full_glu", "linear", "gelu", "none"]
"""What follows the mixer, in the S5 paper's code's names: half_glu1 g sigmoid(W g), half_glu2 y sigmoid(W g),
full_glu (W1 g) sigmoid(W2 g), with g = gelu(y); linear is W g."""


class ChannelMix(nn.Module):
    """Mixes channels at each time step after the sequence mixer.

    Args:
        d_model: Width.
        activation: See :data:`Activation`.
        dropout: Dropout rate on the activated values.
        tie_dropout: Share the dropout mask over time.
    """

    def __init__(
        self, d_model: int, activation: Activation, dropout: float, tie_dropout: bool = False
    ) -> None:
        super().__init__()
        self.activation = activation
        self.dropout = Dropout(dropout, tie_dropout)
        glu = activation in ("half_glu1", "half_glu2", "full_glu")
        self.value = nn.Linear(d_model, d_model) if activation in ("full_glu", "linear") else None
        self.gate = nn.Linear(d_model, d_model) if glu else None

    def forward(self, y: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        if self.activation == "none":
            return self.dropout(y)
        g = self.dropout(F.gelu(y))
        if self.gate is None:
            return g if self.value is None else self.dropout(self.value(g))
        value = self.value(g) if self.value is not None else y if self.activation == "half_glu2" else g
        return self.dropout(value * torch.sigmoid(self.gate(g)))


class Dropout(nn.Module):
    """Dropout whose mask may be shared over time.

    Args:
        rate: Probability of zeroing.
        tie: One mask for all time steps of a row.
    """

    def __init__(self, rate: float, tie: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.tie = tie

    def forward(self, x: Tensor) -> Tensor:
        """Drop parts of (B, L, D) or (B, D)."""
        if not self.training or self.rate == 0:
            return x
        if not self.tie or x.ndim < 3:
            return F.dropout(x, self.rate)
        keep = F.dropout(torch.ones_like(x[:, :1]), self.rate)
        return x * keep


class ResidualBlock(nn.Module):
    """``x + mix(mixer(norm(x)))``, or with the norm after the sum.

    Args:
        mixer: The sequence mixer, add-ons included.
        layer: Where the block stands: width, norm, dropout.
        activation: Channel mixing after the mixer.
        drop_mixed: Also drop parts of the mixer's own output, before the channel mixing.
        then: What follows on the residual stream, element by element, with a skip connection of its own.
    """

    def __init__(
        self,
        mixer: Mixer,
        layer: LayerInfo,
        activation: Activation = "half_glu1",
        *,
        drop_mixed: bool = False,
        then: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.drop_mixed = Dropout(layer.dropout, layer.tie_dropout) if drop_mixed else None
        self.norm = make_norm(layer.norm, layer.d_model)
        self.mix = ChannelMix(layer.d_model, activation, layer.dropout, layer.tie_dropout)
        self.prenorm = layer.prenorm
        self.then = then

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.mixer.d_model

    @property
    def causal(self) -> bool:
        """Whether outputs depend on the past only."""
        return self.mixer.causal

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` is available."""
        return self.mixer.streaming

    @property
    def takes_dt(self) -> bool:
        """Whether the mixer honours gaps."""
        return self.mixer.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the mixer's initial state."""
        return self.mixer.init_state(batch_size, device=device, dtype=dtype)

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
        """Map (B, L, D) to (B, L, D); see :class:`ssm_core.protocols.Mixer`."""
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        y_bld, state = self.mixer(
            normalise(self.norm, x_bld, mask_bl) if self.prenorm else x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            side=side,
            state=state,
        )
        return self._join(x_bld, y_bld, mask_bl), state

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Map one element (B, D) to (B, D)."""
        y_bd, state = self.mixer.step(
            self.norm(x_bd) if self.prenorm else x_bd, dt_b=dt_b, side=side, state=state
        )
        return self._join(x_bd, y_bd), state

    def _join(self, x: Tensor, y: Tensor, mask_bl: Tensor | None = None) -> Tensor:
        out = x + self.mix(y if self.drop_mixed is None else self.drop_mixed(y))
        out = out if self.prenorm else normalise(self.norm, out, mask_bl)
        return out if self.then is None else self.then(out, mask_bl)
