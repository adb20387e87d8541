"""The Transformer's block: attention and feed-forward network; before the first one, position vectors if asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.attention import Attention, number_of_heads
from ssm_core.attention.positions import sinusoids, valid_positions
from ssm_core.backbones.transformer.spec import TransformerConfig
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.feed_forward import FeedForward
from ssm_core.gaps import check_shapes
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State


class Positioned(nn.Module):
    """A block whose input gets position vectors added: where an element stands among its row's valid ones.

    The state is ``count`` (B,), the number of elements so far, and the block's own.

    Args:
        block: The block.
        max_length: Learn one vector for each of this many positions; None takes fixed sinusoids.
    """

    def __init__(self, block: Block, max_length: int | None = None) -> None:
        super().__init__()
        self.block = block
        self.table = None if max_length is None else nn.Parameter(torch.empty(max_length, block.d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the learned vectors from a normal with deviation 0.02."""
        if self.table is not None and not self.table.is_meta:
            self.table.normal_(std=0.02)

    def param_hints(self) -> dict[str, Hint]:
        """Position vectors do not decay."""
        return {} if self.table is None else {"table": Hint(weight_decay=0.0)}

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.block.d_model

    @property
    def causal(self) -> bool:
        """Whether outputs depend on the past only."""
        return self.block.causal

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` is available."""
        return self.block.streaming

    @property
    def takes_dt(self) -> bool:
        """Whether the block honours gaps."""
        return self.block.takes_dt

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"count", "block"}``; a bidirectional block has no state."""
        if not self.causal:
            return ()
        inner = self.block.init_state(batch_size, device=device, dtype=dtype)
        device = device or next(self.block.parameters()).device  # type: ignore[attr-defined]
        return {"count": torch.zeros(batch_size, dtype=torch.long, device=device), "block": inner}

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
        if state and not self.causal:
            raise ValueError("a bidirectional model carries no state: build it with causal=True to stream")
        check_shapes(x_bld, mask_bl=mask_bl, reset_bl=reset_bl)
        before, inner = (state["count"], state["block"]) if state else (None, None)
        positions, count = valid_positions(x_bld[..., 0], mask_bl, reset_bl, before)
        y_bld, inner = self.block(
            x_bld + self._vectors(positions).to(x_bld.dtype),
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            side=side,
            state=inner,
        )
        return y_bld, {"count": count, "block": inner} if self.causal else ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Map one element (B, D) to (B, D)."""
        if not self.streaming:
            raise ValueError("a bidirectional model cannot step: build it with causal=True")
        added = self._vectors(state["count"][:, None])[:, 0].to(x_bd.dtype)
        y_bd, inner = self.block.step(x_bd + added, dt_b=dt_b, side=side, state=state["block"])
        return y_bd, {"count": state["count"] + 1, "block": inner}

    def _vectors(self, positions: Tensor) -> Tensor:
        if self.table is None:
            return sinusoids(positions, self.d_model)
        # A look at the values would make a GPU wait, which refuses an index beyond the table by itself.
        if positions.device.type == "cpu" and not torch.compiler.is_compiling() and positions.numel():
            last = int(positions.max())
            if last >= len(self.table):
                raise ValueError(
                    f"position {last} has no learned vector: the model was built for max_length {len(self.table)}; "
                    "--set backbone.positions=rotary has no such limit"
                )
        return F.embedding(positions, self.table)


def build(config: TransformerConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one block; its two slots coincide: the attention with its linear maps."""
    if config.positions == "learned" and layer.max_length is None:
        raise ConfigError(
            "the transformer's learned positions need the longest length, and it is not known",
            "build the model with max_length=..., or --set backbone.positions=rotary",
        )

    def make(width: int) -> Attention:
        return Attention(
            width,
            number_of_heads(config.heads, width, "the transformer"),
            causal=layer.causal,
            window=config.window,
            rotary_base=config.rotary_base if config.positions == "rotary" else None,
            bias=config.bias,
            dropout=config.dropout_attention,
        )

    after = FeedForward(
        layer.d_model,
        config.ffn_width or 4 * layer.d_model,
        norm=layer.norm,
        prenorm=layer.prenorm,
        activation=config.activation,
        dropout=layer.dropout,
        hidden_dropout=config.dropout_hidden,
        tie_dropout=layer.tie_dropout,
    )
    block = ResidualBlock(whole(make, slot, layer.d_model), layer, "none", then=after)
    if layer.index > 0 or config.positions not in ("sinusoid", "learned"):
        return block
    return Positioned(block, layer.max_length if config.positions == "learned" else None)
