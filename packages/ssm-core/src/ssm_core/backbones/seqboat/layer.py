"""The SeqBoat layer: a moving average of every element, attention among those that a router activates.

Symbols as in the original code: X the residual stream, x = norm(X), mx = EMA(x), p the router's probability, z shared
by queries and keys, v the values, r a gate, and X' = silu(hx + g W_h(r * attention(q, k, v)) + X) with g = p at active
elements and 0 elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.attention.positions import valid_positions
from ssm_core.backbones.seqboat.spec import SeqBoatConfig
from ssm_core.backbones.seqboat.window import WindowAttention
from ssm_core.block import Dropout, ResidualBlock
from ssm_core.ema import EMA, draw_normal
from ssm_core.gaps import check_shapes
from ssm_core.norms import normalise
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid

DEFAULT_POSITIONS = 1024
"""Distances that the simple bias tells apart where neither the config nor the task says how many."""


class SeqBoat(nn.Module):
    """x -> hx + g W_h(r * attention): what the block adds to the residual stream before its activation.

    Args:
        d_model: Width D.
        config: Widths, window, attention, position, router's temperature.
        layer: Where it stands: direction, dropout.
        slot: Builds the moving average with what goes round it.
    """

    def __init__(self, d_model: int, config: SeqBoatConfig, layer: LayerInfo, slot: SlotFn) -> None:
        super().__init__()
        d, z, hidden = d_model, config.z_dim, config.hidden or 2 * d_model
        self.d_model = d
        self.causal = layer.causal
        self.config = config
        self.widths = (z, hidden, hidden)
        self.ema = slot("ssm", lambda w: EMA(w, config.ema_dim, causal=layer.causal, truncated=True), d)
        self.router = nn.Parameter(torch.empty(2, d))
        self.router_bias = nn.Parameter(torch.empty(2))
        self.log_temperature = nn.Parameter(torch.empty(1))
        self.hx_proj = nn.Linear(d, d)
        self.mx_proj = nn.Linear(d, z + 2 * hidden)
        self.h_proj = nn.Linear(hidden, d)
        self.gamma = nn.Parameter(torch.empty(2, z))
        self.beta = nn.Parameter(torch.empty(2, z))
        self.attention = WindowAttention(
            z,
            hidden,
            config.attention,
            config.window,
            config.position,
            config.max_positions or layer.max_length or DEFAULT_POSITIONS,
            causal=layer.causal,
            dropout=config.attention_dropout,
        )
        self.drop = Dropout(layer.dropout, layer.tie_dropout)
        self.drop_hidden = Dropout(config.hidden_dropout, layer.tie_dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and gamma from N(0, 0.02^2), cut off at two deviations; biases and beta start at 0."""
        for weight in (self.router, self.hx_proj.weight, self.mx_proj.weight, self.h_proj.weight, self.gamma):
            draw_normal(weight, 0.02, truncated=True)
        for bias in (self.router_bias, self.hx_proj.bias, self.mx_proj.bias, self.h_proj.bias, self.beta):
            bias.zero_()
        self.log_temperature.fill_(math.log(self.config.temperature * math.sqrt(self.d_model)))

    def param_hints(self) -> dict[str, Hint]:
        """The router stays in float32: which elements are active should not hang on rounding; its weights decay."""
        kept = Hint(weight_decay=0.0, dtype=torch.float32)
        return {"router": Hint(dtype=torch.float32), "router_bias": kept, "log_temperature": kept}

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` is available: what stands in the slot of the moving average decides."""
        return self.causal and self.ema.streaming

    @property
    def takes_dt(self) -> bool:
        """Whether what stands in the slot of the moving average honours gaps; attention counts elements."""
        return self.ema.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"ema", "attention", "seen"}``: the last is the number of elements so far (B,), active or not."""
        if not self.causal:
            return ()
        device = device or self.gamma.device
        return {
            "ema": self.ema.init_state(batch_size, device=device, dtype=dtype),
            "attention": self._inactive(batch_size, device, dtype),
            "seen": torch.zeros(batch_size, device=device, dtype=torch.long),
        }

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
        """Map (B, L, D) to (B, L, D); see :class:`ssm_core.protocols.Mixer`. Gaps act on the moving average only."""
        self._refuse(dt_bl, side)
        if state and not self.causal:
            raise ValueError(
                "a bidirectional seqboat carries no state: build the model with causal=True to stream"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        ema = state["ema"] if state else None
        mx, ema = self.ema(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, state=ema)
        y_bld, after = self._activated(mx, mask_bl, reset_bl, state or None)
        return y_bld.to(x_bld.dtype), {"ema": ema, **after} if self.causal else ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element (B, D); where it is active it attends to the last active ones."""
        self._refuse(dt_b, side)
        if not self.streaming:
            raise ValueError("this seqboat cannot step, looking ahead: build the model with causal=True")
        mx, ema = self.ema.step(x_bd, dt_b=dt_b, state=state["ema"])
        y_bld, after = self._activated(mx[:, None], None, None, state)
        return y_bld[:, 0].to(x_bd.dtype), {"ema": ema, **after}

    def _activated(
        self, mx: Tensor, mask_bl: Tensor | None, reset_bl: Tensor | None, state: State | None
    ) -> tuple[Tensor, dict[str, State]]:
        """Run all that follows the moving average: (B, L, D) to (B, L, D), and the state but for the average's."""
        mx = self.drop(mx)
        gate, active = self.route(mx)
        active = active if mask_bl is None else active & mask_bl
        seen = None if state is None else state["seen"]
        place, seen = valid_positions(mx[..., 0], mask_bl, reset_bl, seen)
        # Inactive elements are to the attention what masked ones are to a mixer.
        h, attention = over_valid(
            self._attend,
            mx,
            mask_bl=active,
            reset_bl=reset_bl,
            state=None if state is None else state["attention"],
            init_state=self._inactive,
            beside={"place": place.expand(mx.shape[:2])},
        )
        return self.hx_proj(mx) + gate * h, {"attention": attention, "seen": seen}

    def route(self, mx: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of being active (B, L, 1), and where it is more likely than not (B, L)."""
        with torch.autocast(mx.device.type, enabled=False):
            wide = mx.to(torch.promote_types(mx.dtype, self.router.dtype))
            logits = F.linear(wide, self.router, self.router_bias)
            p = torch.softmax(logits / self.log_temperature.exp(), -1)
        return p[..., 1:].to(mx.dtype), logits[..., 1] > logits[..., 0]

    def _attend(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Run the gated attention unit on rows whose active elements come first; the core of ``over_valid``."""
        state = self._inactive(len(x_bld), x_bld.device) if state is None else state
        length = x_bld.shape[1]
        if length == 0:
            return x_bld, state
        assert lengths_b is not None
        # Compression: no work on places that no row fills. A compiled graph needs a shape that no value decides.
        slots = length if torch.compiler.is_compiling() else max(int(lengths_b.max()), 1)
        mx, place = x_bld[:, :slots], beside["place"][:, :slots]
        z, r, v = F.silu(self.mx_proj(mx)).split(self.widths, -1)
        q, k = (z * self.gamma[i] + self.beta[i] for i in (0, 1))
        out, state = self.attention(q, k, self.drop_hidden(v), place, lengths_b, state)
        h = self.h_proj(out * r)
        if not self.causal:
            h = self.drop(h)
        return F.pad(h, (0, 0, 0, length - slots)), state

    def _inactive(
        self, rows: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        like = self.gamma
        return self.attention.init_state(rows, device=device or like.device, dtype=dtype or like.dtype)

    def _refuse(self, dt: Tensor | None, side: Side | None) -> None:
        if side:
            raise ValueError(f"seqboat uses no side inputs, but got {sorted(side)}")
        if dt is not None and not self.takes_dt:
            raise ValueError(
                "what stands in seqboat's slot 'ssm' takes no gaps (dt): --set task.time=ignored or appended"
            )


class SeqBoatBlock(ResidualBlock):
    """``silu(x + drop(mixer(norm(x))))``, or with the norm after the activation; there is no feed-forward half."""

    def _join(self, x: Tensor, y: Tensor, mask_bl: Tensor | None = None) -> Tensor:
        out = F.silu(x + self.mix(y))
        return out if self.prenorm else normalise(self.norm, out, mask_bl)


def build(config: SeqBoatConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one SeqBoat block."""
    mixer = slot("mixer", lambda width: SeqBoat(width, config, layer, slot), layer.d_model)
    # Causal blocks drop parts of the whole sum, bidirectional ones of the attention only, in the mixer.
    return SeqBoatBlock(mixer, layer if layer.causal else replace(layer, dropout=0.0), "none")
