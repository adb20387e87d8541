"""SeqBoat's attention: one head within a window, on the active elements of each row.

Rows hold their active elements first, and each sees `window` of them before it (and after it, where it looks both
ways). Queries go in blocks, each with the span of keys that its elements can see: time and memory O(S window) for S
places a row. The state is the last `window` active elements, so that the keys of every row begin at the same place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.attention.multi_head import last_entries
from ssm_core.attention.positions import rotate
from ssm_core.backbones.mega.positions import SimpleBias
from ssm_core.protocols import State


class WindowAttention(nn.Module):
    """Attention of one head within a window, on queries, keys and values that have been computed.

    Args:
        z_dim: Width of queries and keys.
        v_dim: Width of values.
        kind: ``"relu2"`` or ``"softmax"``.
        window: Elements seen on each side that is looked at.
        position: ``"simple"`` (bias by distance in the sequence), ``"local"`` (by distance among active elements) or
            ``"rotary"``.
        max_positions: Distances that the simple bias tells apart.
        causal: Look back only.
        dropout: Rate on the weights.
    """

    def __init__(
        self,
        z_dim: int,
        v_dim: int,
        kind: str,
        window: int,
        position: str,
        max_positions: int,
        *,
        causal: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.v_dim = v_dim
        self.kind = kind
        self.window = window
        self.position = position
        self.causal = causal
        self.rate = dropout
        reach = window + 1 if position == "local" else max_positions
        self.bias = None if position == "rotary" else SimpleBias(reach, truncated=True)

    def init_state(self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype) -> State:
        """Return no active elements: ``k``, ``v`` (B, W, ...), their ``place`` (B, W), and how many, ``count`` (B,)."""
        shape = (batch_size, self.window)
        return {
            "k": torch.zeros(*shape, self.z_dim, device=device, dtype=dtype),
            "v": torch.zeros(*shape, self.v_dim, device=device, dtype=dtype),
            "place": torch.zeros(shape, device=device, dtype=torch.long),
            "count": torch.zeros(batch_size, device=device, dtype=torch.long),
        }

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, place: Tensor, lengths_b: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Attend.

        Args:
            q: Queries (B, S, z) of active elements, each row's first.
            k: Keys (B, S, z).
            v: Values (B, S, v).
            place: Where in its sequence each element stands (B, S).
            lengths_b: Number of active elements (B,).
            state: The active elements before them; those of :meth:`init_state` if there are none.

        Returns:
            (B, S, v), and the last active elements.
        """
        if self.position == "rotary":
            q, k = (rotate(x[:, :, None], place, 10000.0)[:, :, 0] for x in (q, k))
        slots, w = q.shape[1], self.window
        size = min(w, slots)
        span = size + (w if self.causal else 2 * w)
        behind = -slots % size
        query = _blocks(F.pad(q, (0, 0, 0, behind)), size)  # (B, n, size, z)
        query_place = _blocks(F.pad(place, (0, behind)), size)
        padding, entries = behind + (0 if self.causal else w), {"k": k, "v": v, "place": place}
        keys, values, key_place = (
            _spans(torch.cat([state[name].to(new.dtype), new], 1), padding, size, span)
            for name, new in entries.items()
        )
        offset = torch.arange(span, device=q.device) - w - torch.arange(size, device=q.device)[:, None]
        inside = (offset >= -w) & (offset <= (0 if self.causal else w))
        # The number of each key among the active elements of this call; those before it have negative ones.
        starts = size * torch.arange(query.shape[1], device=q.device)[:, None]
        number = starts + torch.arange(span, device=q.device) - w
        exists = (number >= -state["count"][:, None, None]) & (number < lengths_b[:, None, None])
        bias = self._bias(offset, key_place[:, :, None] - query_place[..., None])
        weights = self._weights(query @ keys.mT, bias, inside & exists[:, :, None])
        out = (weights @ values).flatten(1, 2)[:, :slots]
        after = {name: last_entries(state[name], new, lengths_b, w) for name, new in entries.items()}
        return out, {**after, "count": state["count"] + lengths_b}

    def _bias(self, offset: Tensor, distance: Tensor) -> Tensor | None:
        if self.bias is None:
            return None
        return self.bias.at(offset if self.position == "local" else distance)

    def _weights(self, scores: Tensor, bias: Tensor | None, visible: Tensor) -> Tensor:
        """Return the weights (B, n, size, span), zero where not visible."""
        softmax, kept = self.kind == "softmax", scores.dtype
        scale = self.z_dim**-0.5 if softmax else 1.0 / (self.window if self.causal else 2 * self.window)
        scores = scores * scale if bias is None else scores * scale + bias
        if softmax:
            weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
        else:
            weights = F.relu(scores).square()
        weights = torch.where(visible, weights, torch.zeros_like(weights)).to(kept)
        return F.dropout(weights, self.rate, self.training)


def _blocks(x: Tensor, size: int) -> Tensor:
    return x.unflatten(1, (-1, size))


def _spans(x: Tensor, padding: int, size: int, span: int) -> Tensor:
    """(B, S, D) or (B, S), so many zeros behind, as overlapping spans of it: (B, n, span, D) or (B, n, span)."""
    if x.ndim == 2:
        return F.pad(x, (0, padding)).unfold(1, span, size)
    return F.pad(x, (0, 0, 0, padding)).unfold(1, span, size).mT
