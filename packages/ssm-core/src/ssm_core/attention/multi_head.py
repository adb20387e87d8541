"""Multi-head self-attention as a mixer, its keys and values as the state.

B batch, L elements of this call, S keys with those from before, D width, E = D / heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_core.attention.positions import rotate
from ssm_core.attention.relative import RelativeBuckets
from ssm_core.attention.windows import Sight, attend
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Side, State
from ssm_core.ragged import over_valid


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(E) + bias) V over what each element may see, then a linear map.

    The state holds the keys and values that later elements may see, ``k`` and ``v`` (B, S, heads, E), the newest
    last, and ``count`` (B,), the number of elements so far; of a row that has seen fewer than S, the first entries
    mean nothing. With a window S is always ``window - 1``, otherwise it grows by the length of each call.

    Args:
        d_model: Width D.
        heads: Number of heads; has to divide D.
        causal: See no later element.
        window: See only elements at a distance below this; None is no limit.
        rotary_base: Base of rotary positions; None is none.
        bias: The linear maps have biases.
        dropout: Rate at which attention weights are dropped in training.
        relative: Additive bias by distance, or None.
        gain: Gain of the Xavier start of the maps to queries, keys and values.
    """

    takes_dt = False

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        causal: bool = True,
        window: int | None = None,
        rotary_base: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        relative: RelativeBuckets | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(
                f"{heads} heads do not divide the width {d_model}: set another number of heads, or another width"
            )
        self.d_model = d_model
        self.heads = heads
        self.causal = self.streaming = causal
        self.window = window
        self.rotary_base = rotary_base
        self.dropout = dropout
        self.gain = gain
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.relative = relative
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw each of the four matrices by Xavier's uniform rule; biases start at zero."""
        if self.out.weight.is_meta:
            return
        for matrix in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(matrix, self.gain)
        nn.init.xavier_uniform_(self.out.weight)
        for part in (self.qkv, self.out):
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"k", "v", "count"}`` with nothing seen; a bidirectional layer has no state."""
        if not self.causal:
            return ()
        return self._unseen(batch_size, (self.window or 1) - 1, device=device, dtype=dtype)

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
        """Attend over a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`.

        Raises:
            ValueError: For gaps and side inputs, which attention has no use for, or a state if bidirectional.
        """
        if dt_bl is not None:
            raise ValueError("attention takes no gaps (dt_bl): --set task.time=ignored or appended")
        if side:
            raise ValueError(f"attention uses no side inputs, but got {sorted(side)}")
        if state and not self.causal:
            raise ValueError(
                "bidirectional attention carries no state: build the model with causal=True to stream"
            )
        before = state or None
        past = (self.window or 1) - 1 if before is None else before["k"].shape[1]
        return over_valid(
            self._rows,
            x_bld,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            state=before,
            init_state=(lambda rows: self._unseen(rows, past, device=x_bld.device)) if self.causal else None,
            state_grows=self.causal and self.window is None,
        )

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D)."""
        if not self.causal:
            raise ValueError("bidirectional attention cannot step: build the model with causal=True")
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bld, state = self.forward(x_bd[:, None], dt_bl=dt_bl, side=side, state=state)
        return y_bld[:, 0], state

    def _unseen(
        self,
        rows: int,
        size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        weight = self.qkv.weight
        shape, device = (rows, size, self.heads, self.d_model // self.heads), device or weight.device
        entries = torch.zeros(2, *shape, device=device, dtype=dtype or weight.dtype)
        return {
            "k": entries[0],
            "v": entries[1],
            "count": torch.zeros(rows, dtype=torch.long, device=device),
        }

    def _rows(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Attend over rows whose valid elements come first; see :class:`ssm_core.ragged.Core`."""
        batch, length, _ = x_bld.shape
        if length == 0:
            fresh = self.init_state(batch, device=x_bld.device)
            return x_bld, fresh if state is None else state
        q, k, v = self.qkv(x_bld).unflatten(-1, (3, self.heads, -1)).unbind(2)
        seen = None if state is None else state["count"]
        if self.rotary_base is not None:
            positions = torch.arange(length, device=x_bld.device)[None]
            positions = positions if seen is None else positions + seen[:, None]
            q, k = (rotate(each, positions, self.rotary_base) for each in (q, k))
        keys, values = k, v
        if state is not None and state["k"].shape[1]:
            keys = torch.cat([state["k"].to(k.dtype), k], 1)
            values = torch.cat([state["v"].to(v.dtype), v], 1)
        before = seen if keys.shape[1] > length else None
        sight = Sight(causal=self.causal, window=self.window, before_b=before, lengths_b=lengths_b)
        rate = self.dropout if self.training else 0.0
        y_bld = self.out(attend(q, keys, values, sight, self.relative, rate).flatten(2))
        if not self.causal:
            return y_bld, ()
        return y_bld, self._after(k, v, lengths_b, state)

    def _after(self, k: Tensor, v: Tensor, lengths_b: Tensor | None, state: State | None) -> State:
        """Return the state with this call's keys and values behind those of the state."""
        before: dict[str, Tensor] = self.init_state(len(k), device=k.device) if state is None else state
        size = before["k"].shape[1] + k.shape[1] if self.window is None else self.window - 1
        read = k.shape[1] if lengths_b is None else lengths_b
        return {
            "k": last_entries(before["k"], k, lengths_b, size),
            "v": last_entries(before["v"], v, lengths_b, size),
            "count": before["count"] + read,
        }


def last_entries(before: Tensor, new: Tensor, lengths_b: Tensor | None, size: int) -> Tensor:
    """Return the last entries that count, the newest at the end, in the type of those before.

    Args:
        before: Entries from before the call (B, P, ...).
        new: Those of the call (B, L, ...).
        lengths_b: Number of new ones that count (B,); None if all do.
        size: How many to return; where a row has fewer, its first places hold anything finite.

    Returns:
        (B, size, ...).
    """
    joined = torch.cat([before, new.to(before.dtype)], 1)
    if lengths_b is None:
        return joined[:, joined.shape[1] - size :]
    end = before.shape[1] + lengths_b[:, None]
    index = (end - size + torch.arange(size, device=new.device)).clamp(min=0)
    return joined.gather(1, index.reshape(index.shape + (1,) * (new.ndim - 2)).expand(-1, -1, *new.shape[2:]))


def number_of_heads(heads: int | None, width: int, whose: str) -> int:
    """Return the number of heads: as asked for, or the largest divisor of the width up to width / 64, or 1.

    Raises:
        ConfigError: If those asked for do not divide the width; it names ``whose`` they are.
    """
    if heads is None:
        return next(n for n in range(max(width // 64, 1), 0, -1) if width % n == 0)
    if width % heads:
        raise ConfigError(
            f"{whose}'s {heads} heads do not divide the width {width}",
            "--set backbone.heads to a divisor, or leave it out",
        )
    return heads
