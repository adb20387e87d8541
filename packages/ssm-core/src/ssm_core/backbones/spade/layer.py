"""The SPADE layer: local attention, in some layers together with a state-space model over the whole sequence.

With x the normed input, g = SSM(x) and a = LocalAttention(x), the layer gives W [LN(g); LN(a)] + b (concat),
w LN(g) + (1 - w) LN(a) (add), or LocalAttention(g) (stack).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_core.attention import Attention, RelativeBuckets, number_of_heads
from ssm_core.backbones.s4.layer import S4
from ssm_core.backbones.s4.spec import S4Config
from ssm_core.backbones.s4d.layer import S4D
from ssm_core.backbones.s4d.spec import S4DConfig
from ssm_core.backbones.spade.spec import SpadeConfig
from ssm_core.block import ResidualBlock
from ssm_core.feed_forward import FeedForward
from ssm_core.protocols import Block, LayerInfo, Mixer, Side, SlotFn, State


class Spade(nn.Module):
    """A global branch and local attention, combined.

    The state is ``{"ssm", "attention"}``, the two branches' own.

    Args:
        ssm: The global branch, a mixer of the attention's width.
        attention: The local branch.
        combine: ``"concat"``, ``"add"`` or ``"stack"``, as above.
        weight: w, the share of the global branch in the sum.
    """

    takes_dt = False

    def __init__(self, ssm: Mixer, attention: Attention, combine: str, weight: float) -> None:
        super().__init__()
        self.ssm = ssm
        self.attention = attention
        self.combine = combine
        self.weight = weight
        width, normed = attention.d_model, combine != "stack"
        self.norm_ssm = nn.LayerNorm(width) if normed else None
        self.norm_attention = nn.LayerNorm(width) if normed else None
        self.aggregate = nn.Linear(2 * width, width) if combine == "concat" else None

    @property
    def d_model(self) -> int:
        """Width."""
        return self.attention.d_model

    @property
    def causal(self) -> bool:
        """Whether both branches look back only."""
        return self.ssm.causal and self.attention.causal

    @property
    def streaming(self) -> bool:
        """Whether both branches step."""
        return self.ssm.streaming and self.attention.streaming

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the branches' initial states; a bidirectional layer has none."""
        if not self.causal:
            return ()
        branches = {"ssm": self.ssm, "attention": self.attention}
        return {
            name: branch.init_state(batch_size, device=device, dtype=dtype)
            for name, branch in branches.items()
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
        """Run both branches over a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`.

        Raises:
            ValueError: For gaps and side inputs, which attention has no use for, or a state if bidirectional.
        """
        self._refuse(dt_bl, side)
        if state and not self.causal:
            raise ValueError(
                "a bidirectional spade carries no state: build the model with causal=True to stream"
            )
        before = state or {"ssm": None, "attention": None}
        given = {"mask_bl": mask_bl, "reset_bl": reset_bl}
        # Attention counts elements, not time: what is masked passes in no time for the global branch, too.
        gaps = mask_bl.to(x_bld.dtype) if mask_bl is not None and self.ssm.takes_dt else None
        g, ssm = self.ssm(x_bld, **given, dt_bl=gaps, state=before["ssm"])
        local = g if self.combine == "stack" else x_bld
        a, attention = self.attention(local, **given, state=before["attention"])
        return self._join(g, a), {"ssm": ssm, "attention": attention} if self.causal else ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D)."""
        if not self.streaming:
            raise ValueError("a bidirectional spade cannot step: build the model with causal=True")
        self._refuse(dt_b, side)
        g, ssm = self.ssm.step(x_bd, state=state["ssm"])
        local = g if self.combine == "stack" else x_bd
        a, attention = self.attention.step(local, state=state["attention"])
        return self._join(g, a), {"ssm": ssm, "attention": attention}

    def _join(self, g: Tensor, a: Tensor) -> Tensor:
        if self.norm_ssm is None or self.norm_attention is None:
            return a
        g, a = self.norm_ssm(g), self.norm_attention(a)
        if self.aggregate is not None:
            return self.aggregate(torch.cat([g, a], -1))
        return self.weight * g + (1 - self.weight) * a

    @staticmethod
    def _refuse(dt: Tensor | None, side: Side | None) -> None:
        if dt is not None:
            raise ValueError("spade takes no gaps (dt_bl): --set task.time=ignored or appended")
        if side:
            raise ValueError(f"spade uses no side inputs, but got {sorted(side)}")


def local_attention(width: int, config: SpadeConfig, causal: bool) -> Attention:
    """Return the local branch: no biases, Xavier's start, that of queries, keys and values shrunk by sqrt(2)."""
    heads = number_of_heads(config.heads, width, "spade")
    relative = None
    if config.relative:
        relative = RelativeBuckets(heads, config.buckets, config.max_distance, causal=causal)
    return Attention(
        width,
        heads,
        causal=causal,
        window=config.window,
        bias=False,
        dropout=config.dropout_attention,
        relative=relative,
        gain=0.5**0.5,
    )


def global_branch(width: int, config: SpadeConfig, causal: bool) -> Mixer:
    """Return the bare state-space model, with neither activation nor linear map behind it."""
    knobs = ("state_size", "n_ssm", "dt_min", "dt_max", "lr_scale", "lr_scale_dt")
    given = {name: getattr(config, name) for name in knobs}
    if config.global_branch == "s4":
        return S4(width, S4Config(**given), causal=causal)
    return S4D(width, S4DConfig(**given), causal=causal)


def build(config: SpadeConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one block; only those with a state-space model offer the slot ``ssm``."""

    def make(width: int) -> Mixer:
        attention = local_attention(width, config, layer.causal)
        if layer.index % config.every:
            return attention
        ssm = slot("ssm", lambda inner: global_branch(inner, config, layer.causal), width)
        return Spade(ssm, attention, config.combine, config.weight)

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
    return ResidualBlock(slot("mixer", make, layer.d_model), layer, "none", then=after)
