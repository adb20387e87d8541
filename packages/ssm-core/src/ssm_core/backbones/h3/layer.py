"""The H3 layer: q * SSM_diag(SSM_shift(k) * v), between linear maps (Fu et al. 2023, section 3 and algorithm 1).

With heads of width E the product of keys and values is an outer one in each head, E x E, and q sums it over the keys'
index.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.attention import Attention, number_of_heads
from ssm_core.backbones.h3.spec import H3Config
from ssm_core.backbones.h3.systems import DiagonalSSM, Shift
from ssm_core.block import ResidualBlock
from ssm_core.compose import matching_layers
from ssm_core.ema import draw_normal
from ssm_core.feed_forward import FeedForward
from ssm_core.gaps import check_shapes
from ssm_core.protocols import Block, LayerInfo, Mixer, Side, SlotFn, State


class H3(nn.Module):
    """Queries, keys and values, the shift on the keys, and the diagonal model on their product.

    Args:
        d_model: Width D.
        config: State size, heads, start.
        slot: Builds the diagonal model, of width D head_dim, with what goes round it.

    Raises:
        ValueError: If ``head_dim`` does not divide the width.
    """

    causal = True
    takes_dt = False

    def __init__(self, d_model: int, config: H3Config, slot: SlotFn) -> None:
        super().__init__()
        e = config.head_dim
        if d_model % e:
            raise ValueError(f"h3: head_dim = {e} has to divide the width, {d_model}: set backbone.head_dim")
        self.d_model = d_model
        self.head_dim = e
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.shift = Shift(d_model, config.state_size)
        self.ssm = slot("ssm", lambda width: DiagonalSSM(width, config, e * e), d_model * e)
        self.out = nn.Linear(d_model, d_model)

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` is available: what stands in the slot of the diagonal model decides."""
        return self.ssm.streaming

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"shift", "ssm"}``: the last keys, and the diagonal model's own."""
        parts = {"shift": self.shift, "ssm": self.ssm}
        return {name: part.init_state(batch_size, device=device, dtype=dtype) for name, part in parts.items()}

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
        """Mix a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`."""
        self._refuse(dt_bl, side)
        check_shapes(x_bld, mask_bl=mask_bl, reset_bl=reset_bl)
        if mask_bl is not None:
            x_bld = torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))
        before = state or {"shift": None, "ssm": None}
        q, k, v, kind = self._projected(x_bld)
        k, shift = self.shift(k, mask_bl=mask_bl, reset_bl=reset_bl, state=before["shift"])
        kv = self._outer(k, v)
        y, ssm = self.ssm(kv, mask_bl=mask_bl, reset_bl=reset_bl, state=before["ssm"])
        return self.out(self._read(q, y).to(kind)), {"shift": shift, "ssm": ssm}

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D)."""
        self._refuse(dt_b, side)
        if not self.streaming:
            raise ValueError("what stands in h3's slot 'ssm' cannot step: drop the add-on")
        q, k, v, kind = self._projected(x_bd)
        k, shift = self.shift.step(k, state["shift"])
        y, ssm = self.ssm.step(self._outer(k, v), state=state["ssm"])
        return self.out(self._read(q, y).to(kind)), {"shift": shift, "ssm": ssm}

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
        """Return q, k and v (..., D) in at least the precision of the models, and that of the linear maps."""
        qkv = self.qkv(x)
        wide = torch.promote_types(qkv.dtype, self.shift.C.dtype)
        q, k, v = qkv.to(wide).chunk(3, -1)
        return q, k, v, qkv.dtype

    def _outer(self, k: Tensor, v: Tensor) -> Tensor:
        """(..., D) twice as (..., E E H), H = D / E: entry (i, j, h) is k_i v_j of head h."""
        k, v = (x.unflatten(-1, (-1, self.head_dim)).mT for x in (k, v))  # (..., E, H)
        return (k[..., :, None, :] * v[..., None, :, :]).flatten(-3)

    def _read(self, q: Tensor, y: Tensor) -> Tensor:
        """Sum over the keys' index with the queries: (..., E E H) to (..., E H)."""
        e = self.head_dim
        q = q.unflatten(-1, (-1, e)).mT  # (..., E, H)
        return (q[..., :, None, :] * y.unflatten(-1, (e, e, -1))).sum(-3).flatten(-2)

    @staticmethod
    def _refuse(dt: Tensor | None, side: Side | None) -> None:
        if dt is not None:
            raise ValueError("h3 takes no gaps (dt_bl): --set task.time=ignored or appended")
        if side:
            raise ValueError(f"h3 uses no side inputs, but got {sorted(side)}")


def gpt2_start(linear: nn.Linear, std: float) -> None:
    """Draw weights from N(0, std^2) and set the bias to 0."""
    draw_normal(linear.weight, std)
    nn.init.zeros_(linear.bias)


def build(config: H3Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one block: H3, or attention where the config says so, then the feed-forward half."""
    d, std = layer.d_model, 0.02
    residual = std / math.sqrt(2 * layer.n_layers)  # two outputs a block are added to the residual stream

    def h3(width: int) -> Mixer:
        mixer = H3(width, config, slot)
        gpt2_start(mixer.qkv, std)
        gpt2_start(mixer.out, residual)
        return mixer

    def attention(width: int) -> Mixer:
        heads = number_of_heads(config.heads, width, "h3")
        base = 10000.0 if config.rotary else None
        mixer = Attention(width, heads, rotary_base=base, dropout=config.attention_dropout)
        gpt2_start(mixer.qkv, std)
        gpt2_start(mixer.out, residual)
        return mixer

    attends = config.attention_layers is not None and layer.index in matching_layers(
        config.attention_layers, layer.n_layers, "h3's attention"
    )
    then = FeedForward(
        d,
        config.ffn or 4 * d,
        norm=layer.norm,
        prenorm=layer.prenorm,
        activation="gelu_tanh",
        dropout=layer.dropout,
        hidden_dropout=0.0,
        tie_dropout=layer.tie_dropout,
    )
    gpt2_start(then.up, std)
    gpt2_start(then.down, residual)
    return ResidualBlock(slot("mixer", attention if attends else h3, d), layer, "none", then=then)
