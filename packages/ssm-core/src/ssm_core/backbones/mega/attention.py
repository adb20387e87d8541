"""Mega's attention: one head, softmax or elementwise, over everything or within chunks, with its cache.

A chunk begins at a sequence's first element, then every `chunk` elements. Slots are positions counted from the
beginning of the chunk that was open before the call, so that one matrix of position biases serves all rows and all
chunks; rows may differ in how far that chunk had got.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.mega.positions import RotaryBias, SimpleBias, by_distance, by_rows
from ssm_core.protocols import State


class ChunkAttention(nn.Module):
    """Attention of one head on queries, keys and values that have been computed.

    Args:
        z_dim: Width of queries and keys.
        v_dim: Width of values.
        kind: ``"softmax"``, ``"laplace"`` or ``"relu2"``.
        positions: Makes the position biases.
        chunk: Elements of a chunk; None is everything.
        causal: Look back only.
        dropout: Rate on the weights.
    """

    def __init__(
        self,
        z_dim: int,
        v_dim: int,
        kind: str,
        positions: SimpleBias | RotaryBias,
        *,
        chunk: int | None = None,
        causal: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.v_dim = v_dim
        self.kind = kind
        self.positions = positions
        self.chunk = chunk
        self.causal = causal
        self.rate = dropout

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        width: int = 0,
    ) -> State:
        """Return an empty cache: keys (B, M, z) and values (B, M, v) of the open chunk, and its count so far (B,).

        M is the chunk, or, where there are no chunks, ``width``, which grows with every call.
        """
        like = next(self.positions.parameters())
        device, dtype = device or like.device, dtype or like.dtype
        width = width if self.chunk is None else self.chunk
        return {
            "k": torch.zeros(batch_size, width, self.z_dim, device=device, dtype=dtype),
            "v": torch.zeros(batch_size, width, self.v_dim, device=device, dtype=dtype),
            "count": torch.zeros(batch_size, device=device, dtype=torch.long),
        }

    def forward(
        self,
        q: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        k: Tensor,
        v: Tensor,
    ) -> tuple[Tensor, State]:
        """Attend on rows whose valid elements come first; the core of :func:`ssm_core.ragged.over_valid`.

        Args:
            q: Queries (B, L, z).
            gaps_bl: Not used: attention counts elements.
            lengths_b: Number of elements that count (B,); None if all do.
            state: Cache, or None.
            k: Keys (B, L, z).
            v: Values (B, L, v).

        Returns:
            (B, L, v), and the cache after each row's last element that counts; ``()`` unless causal.
        """
        batch, length = q.shape[:2]
        if length == 0:
            empty = self.init_state(batch, device=q.device) if state is None else state
            return v, empty if self.causal else ()
        first = None if state is None else state["count"]
        # Under autocast keys are narrower than the weights they come from; the cache has the width of these.
        kept = next(self.positions.parameters()).dtype if state is None else state["k"].dtype
        one = self.chunk is None or length == 1 or (state is None and length <= self.chunk)
        k, v = self._slots(k, v, state, length, one)
        here = torch.full((batch,), length, device=q.device) if lengths_b is None else lengths_b
        end = here if first is None else first + here
        attend = self._within_one if one else self._within_chunks
        out = attend(q.to(k.dtype), k, v, first, end)
        return out.to(q.dtype), self._after(k.to(kept), v.to(kept), end) if self.causal else ()

    def _slots(
        self, k: Tensor, v: Tensor, state: State | None, length: int, one: bool
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values by slot, (B, W, ...): the cache first; what lies behind the end means nothing."""
        if state is None:
            width = length if one or self.chunk is None else _multiple(length, self.chunk)
            return F.pad(k, (0, 0, 0, width - length)), F.pad(v, (0, 0, 0, width - length))
        chunk = self.chunk
        width = state["k"].shape[1] + length if chunk is None else _multiple(chunk - 1 + length, chunk)
        return append(state["k"], k, state["count"], width), append(state["v"], v, state["count"], width)

    def _within_one(self, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, end: Tensor) -> Tensor:
        """All queries belong to one chunk: (B, L, z) against (B, W, ...)."""
        length, width = q.shape[1], k.shape[1]
        slot = torch.arange(width, device=q.device)
        numbers = self.positions(width)
        visible = (slot < end[:, None])[:, None]  # (B, 1, W)
        position = torch.arange(length, device=q.device)  # (L,), or (B, L) where rows differ
        position = position if first is None else first[:, None] + position
        distance = slot - position[..., None]
        bias = by_rows(numbers) if first is None else by_distance(numbers, distance)
        if self.causal:
            visible = visible & (distance <= 0)
        return self._weights(q, k, bias, visible) @ v

    def _within_chunks(self, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, end: Tensor) -> Tensor:
        """Queries by slot too, then chunk by chunk: a product of (C, C) matrices."""
        assert self.chunk is not None
        (batch, length), width, chunk = q.shape[:2], k.shape[1], self.chunk
        if first is None:
            q = F.pad(q, (0, 0, 0, width - length))
        else:
            q = append(q.new_zeros(batch, chunk, q.shape[2]), q, first, width)
        q, k, v = (each.unflatten(1, (-1, chunk)) for each in (q, k, v))
        visible = (torch.arange(width, device=q.device) < end[:, None]).view(batch, -1, 1, chunk)
        if self.causal:
            visible = visible & torch.ones(chunk, chunk, device=q.device, dtype=torch.bool).tril()
        out = (self._weights(q, k, by_rows(self.positions(chunk)), visible) @ v).flatten(1, 2)
        if first is None:
            return out[:, :length]
        index = first[:, None] + torch.arange(length, device=q.device)
        return out.gather(1, index[..., None].expand(-1, -1, out.shape[2]))

    def _weights(self, q: Tensor, k: Tensor, bias: Tensor, visible: Tensor) -> Tensor:
        """Return the weights (..., Q, K), zero where not visible."""
        scores = q @ k.mT
        if self.kind == "softmax":
            scores = scores * self.z_dim**-0.5 + bias
            weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
        else:
            # Divided by how many keys there are, not by how many places.
            count = visible.sum(-1, keepdim=True).clamp(min=1)
            scores = scores / count + bias
            weights = laplace(scores) if self.kind == "laplace" else F.relu(scores).square()
        weights = torch.where(visible, weights, torch.zeros_like(weights)).to(k.dtype)
        return F.dropout(weights, self.rate, self.training)

    def _after(self, k: Tensor, v: Tensor, end: Tensor) -> State:
        """Return the cache: all slots, or those of the chunk that is open at the end."""
        if self.chunk is None:
            return {"k": k, "v": v, "count": end}
        count = end % self.chunk
        slot = torch.arange(self.chunk, device=k.device)
        index = ((end - count)[:, None] + slot).clamp(max=k.shape[1] - 1)[..., None]
        used = (slot < count[:, None])[..., None]
        k, v = (each.gather(1, index.expand(-1, -1, each.shape[2])) for each in (k, v))
        return {"k": torch.where(used, k, 0), "v": torch.where(used, v, 0), "count": count}


def append(before: Tensor, new: Tensor, count_b: Tensor, width: int) -> Tensor:
    """Put new elements (B, L, D) behind each row's first ``count`` (B,) of those before (B, M, D), in W slots.

    What stands behind them means nothing. Where the dtypes differ, those before decide.
    """
    both = torch.cat([before, new.to(before.dtype)], 1)
    slot = torch.arange(width, device=both.device)
    index = torch.where(slot < count_b[:, None], slot, before.shape[1] + slot - count_b[:, None])
    index = index.clamp(max=both.shape[1] - 1)
    return both.gather(1, index[..., None].expand(-1, -1, both.shape[2]))


def laplace(x: Tensor) -> Tensor:
    """The Laplace function, 0.5 (1 + erf((x - mu) / (sigma sqrt 2))), mu = sqrt(1/2), sigma = sqrt(1/(4 pi)) (eq. 17).

    With these it meets squared ReLU in value and slope at x = sqrt(1/2).
    """
    sigma = math.sqrt(0.25 / math.pi)
    return 0.5 * (1.0 + torch.erf((x - math.sqrt(0.5)) / (sigma * math.sqrt(2.0))))


def _multiple(length: int, chunk: int) -> int:
    return -(-length // chunk) * chunk
