"""The Mega layer: gated attention whose queries, keys and gates come from a moving average of its input.

Symbols as in the original code: X the residual stream, x = norm(X), mx = EMA(x), z shared by queries and keys, v the
values, u and r gates, and X' = X + u (h - X) with h = silu(hx + W_h (r * attention(q, k, v))).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.mega.attention import ChunkAttention
from ssm_core.backbones.mega.positions import RotaryBias, SimpleBias
from ssm_core.backbones.mega.spec import MegaConfig
from ssm_core.block import Dropout, ResidualBlock
from ssm_core.ema import EMA, draw_normal
from ssm_core.feed_forward import FeedForward
from ssm_core.gaps import check_shapes
from ssm_core.norms import make_norm, normalise
from ssm_core.protocols import Block, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid

DEFAULT_POSITIONS = 1024
"""Distances that the simple bias tells apart where neither the config nor the task says how many."""

Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, State]]


class Mega(nn.Module):
    """X -> u (h - X), what the gated attention adds to the residual stream; with pre-norm its norm is inside.

    Args:
        d_model: Width D.
        config: Widths, attention, chunks, position bias.
        layer: Where it stands: direction, norm, dropout.
        slot: Builds the moving average with what goes round it.
    """

    def __init__(self, d_model: int, config: MegaConfig, layer: LayerInfo, slot: SlotFn) -> None:
        super().__init__()
        d, z, hidden = d_model, config.z_dim, config.hidden or 2 * d_model
        self.d_model = d
        self.causal = layer.causal
        self.widths = (d, z, hidden, d)
        self.norm = make_norm(layer.norm if layer.prenorm else "none", d)
        self.ema = slot("ssm", lambda width: EMA(width, config.ema_dim, causal=layer.causal), d)
        self.v_proj = nn.Linear(d, hidden)
        self.mx_proj = nn.Linear(d, z + hidden + 2 * d)
        self.h_proj = nn.Linear(hidden, d)
        self.gamma = nn.Parameter(torch.empty(2, z))
        self.beta = nn.Parameter(torch.empty(2, z))
        self.attention = ChunkAttention(
            z,
            hidden,
            config.attention,
            _positions(config, layer),
            chunk=config.chunk_size,
            causal=layer.causal,
            dropout=config.attention_dropout,
        )
        self.drop = Dropout(layer.dropout, layer.tie_dropout)
        self.drop_hidden = Dropout(config.hidden_dropout, layer.tie_dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and gamma from N(0, 0.02^2), set biases and beta to 0; the moving average draws its own."""
        for linear in (self.v_proj, self.mx_proj, self.h_proj):
            start(linear)
        draw_normal(self.gamma, 0.02)
        self.beta.zero_()

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
        """Return ``{"ema": ..., "attention": {"k", "v", "count"}}``; nothing if it looks both ways.

        Without chunks k and v (B, M, ...) hold every element so far; with them, those of the open chunk.
        """
        if not self.causal:
            return ()
        return {
            "ema": self.ema.init_state(batch_size, device=device, dtype=dtype),
            "attention": self.attention.init_state(batch_size, device=device, dtype=dtype),
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
                "a bidirectional mega carries no state: build the model with causal=True to stream"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        inner = normalise(self.norm, x_bld, mask_bl)
        mx, ema = self.ema(
            inner, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, state=state["ema"] if state else None
        )
        before = state["attention"] if state else None

        def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, State]:
            return over_valid(
                self.attention,
                q,
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=before,
                init_state=self._fresh(before) if self.causal else None,
                state_grows=self.causal,
                beside={"k": k, "v": v},
            )

        y_bld, attention = self._gated(x_bld, inner, mx, attend)
        return y_bld, {"ema": ema, "attention": attention} if self.causal else ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element (B, D): it attends to the open chunk, or to all before it where there are no chunks."""
        self._refuse(dt_b, side)
        if not self.streaming:
            raise ValueError("this mega cannot step, looking ahead: build the model with causal=True")
        inner = self.norm(x_bd)
        mx, ema = self.ema.step(inner, dt_b=dt_b, state=state["ema"])

        def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, State]:
            return self.attention(q, gaps_bl=None, lengths_b=None, state=state["attention"], k=k, v=v)

        y_bld, attention = self._gated(x_bd[:, None], inner[:, None], mx[:, None], attend)
        return y_bld[:, 0], {"ema": ema, "attention": attention}

    def _gated(self, x: Tensor, inner: Tensor, mx: Tensor, attend: Attend) -> tuple[Tensor, State]:
        v = self.drop_hidden(F.silu(self.v_proj(inner)))
        u, z, r, hx = self.mx_proj(self.drop(mx)).split(self.widths, -1)
        z = F.silu(z)
        q, k = (z * self.gamma[i] + self.beta[i] for i in (0, 1))
        out, state = attend(q, k, v)
        h = self.drop(F.silu(hx + self.h_proj(out * F.silu(r))))
        return (torch.sigmoid(u) * (h - x)).to(x.dtype), state

    def _fresh(self, before: State | None) -> Callable[[int], State]:
        """Return what makes empty caches as wide as the one carried, so that rows of both fit together."""
        width = 0 if before is None else before["k"].shape[1]
        return lambda rows: self.attention.init_state(rows, width=width)

    def _refuse(self, dt: Tensor | None, side: Side | None) -> None:
        if side:
            raise ValueError(f"mega uses no side inputs, but got {sorted(side)}")
        if dt is not None and not self.takes_dt:
            raise ValueError(
                "what stands in mega's slot 'ssm' takes no gaps (dt): --set task.time=ignored or appended"
            )


def start(linear: nn.Linear, std: float = 0.02, truncated: bool = False) -> None:
    """Draw a linear map's weights from N(0, std^2) and set its bias to 0."""
    draw_normal(linear.weight, std, truncated)
    nn.init.zeros_(linear.bias)


def _positions(config: MegaConfig, layer: LayerInfo) -> SimpleBias | RotaryBias:
    if config.position == "rotary":
        return RotaryBias(config.z_dim)
    return SimpleBias(config.max_positions or config.chunk_size or layer.max_length or DEFAULT_POSITIONS)


def build(config: MegaConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one Mega block: the gated attention, then the feed-forward half, each with its own norm."""
    d = layer.d_model
    mixer = slot("mixer", lambda width: Mega(width, config, layer, slot), d)
    then = FeedForward(
        d,
        config.ffn or config.hidden or 2 * d,
        norm=layer.norm,
        prenorm=layer.prenorm,
        activation="silu",
        dropout=layer.dropout,
        hidden_dropout=config.hidden_dropout,
        tie_dropout=layer.tie_dropout,
    )
    for linear in (then.up, then.down):
        start(linear)
    # The mixer's gate needs the residual stream itself, so that with pre-norm the norm is its own affair.
    around = replace(layer, norm="none" if layer.prenorm else layer.norm, dropout=0.0)
    return ResidualBlock(mixer, around, "none", then=then)
