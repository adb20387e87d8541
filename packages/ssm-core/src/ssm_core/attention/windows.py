"""The attention itself: everything at once, or within a window, where it takes time and memory O(L window).

Elements are numbered from 0, the first of this call; keys from before the call have negative numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Which keys a query sees.

    Attributes:
        causal: None after itself.
        window: Only those at a distance below this; None is no limit.
        before_b: Number of elements before the call (B,), of which the last ones are among the keys; None is none.
        lengths_b: Number of elements of this call that count (B,); None if all do.
    """

    causal: bool
    window: int | None = None
    before_b: Tensor | None = None
    lengths_b: Tensor | None = None

    def of(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        """Return True where the query sees the key, (B or 1, *), for numbers that broadcast to (*).

        A query that counts for nothing still sees something, since a softmax over nothing is NaN.
        """
        rest = (1,) * max(query.ndim, key.ndim)
        seen = key >= (0 if self.before_b is None else -self.before_b.view(-1, *rest))
        if self.causal:
            seen = seen & (key <= query)
        else:
            end = length if self.lengths_b is None else self.lengths_b.clamp(min=1).view(-1, *rest)
            seen = seen & (key < end)
        if self.window is not None:
            seen = (seen & ((query - key).abs() < self.window)) | (query == key)
        return seen if seen.ndim > len(rest) else seen[None]


Relative = Callable[[Tensor], Tensor]
"""From key number minus query number (Q, S) to biases (heads, Q, S)."""


def attend(
    q_blhe: Tensor, k_bshe: Tensor, v_bshe: Tensor, sight: Sight, relative: Relative | None, dropout: float
) -> Tensor:
    """Return each query's mean of the values it sees, weighted by softmax(q k / sqrt(E) + bias).

    Args:
        q_blhe: Queries (B, L, heads, E).
        k_bshe: Keys (B, S, heads, E), the last L of them the queries' own.
        v_bshe: Values, as the keys.
        sight: What is seen.
        relative: Additive bias, or None.
        dropout: Rate at which weights are dropped.

    Returns:
        (B, L, heads, E).
    """
    length = q_blhe.shape[1]
    if sight.window is not None and length > sight.window:
        return _in_blocks(q_blhe, k_bshe, v_bshe, sight, relative, dropout)
    past = k_bshe.shape[1] - length
    plain = past == 0 and sight.before_b is None and relative is None
    if plain and (sight.causal or sight.lengths_b is None):
        # Whatever stands behind a row's end is after every query that counts.
        return _softmax(q_blhe, k_bshe, v_bshe, None, dropout, causal=sight.causal)
    query = torch.arange(length, device=q_blhe.device)[:, None]
    key = torch.arange(-past, length, device=q_blhe.device)[None]
    bias = _bias(sight.of(query, key, length)[:, None], relative, key - query, q_blhe.dtype)
    return _softmax(q_blhe, k_bshe, v_bshe, bias, dropout)


def _in_blocks(
    q_blhe: Tensor, k_bshe: Tensor, v_bshe: Tensor, sight: Sight, relative: Relative | None, dropout: float
) -> Tensor:
    """Queries in blocks of the window's size, each with its own block of keys, the one before and, both ways, the next.

    The keys are padded to whole blocks, with one of them before the first query.
    """
    assert sight.window is not None
    batch, length, heads, width = q_blhe.shape
    size = sight.window
    count = -(-length // size)
    behind = count * size - length
    front, after = size - (k_bshe.shape[1] - length), 0 if sight.causal else size
    q = F.pad(q_blhe, (0, 0, 0, 0, 0, behind)).view(batch * count, size, heads, width)
    k, v = (_neighbours(F.pad(x, (0, 0, 0, 0, front, behind + after)), size, count) for x in (k_bshe, v_bshe))
    span = k.shape[1]
    query = torch.arange(size, device=q.device)[:, None]
    key = torch.arange(-size, span - size, device=q.device)[None]
    start = size * torch.arange(count, device=q.device)[:, None, None]
    seen = sight.of(start + query, start + key, length).expand(batch, -1, -1, -1)
    bias = _bias(seen.reshape(batch * count, 1, size, span), relative, key - query, q.dtype)
    return _softmax(q, k, v, bias, dropout).reshape(batch, count * size, heads, width)[:, :length]


def _neighbours(x_bshe: Tensor, size: int, count: int) -> Tensor:
    """(B, S, heads, E) as (B count, 2 or 3 size, heads, E): blocks 0, 1 (and 2), then 1, 2 (and 3), and so on."""
    blocks = x_bshe.unflatten(1, (-1, size))
    side = blocks.shape[1] - count
    joined = torch.cat([blocks[:, i : i + count] for i in range(side + 1)], 2)
    return joined.flatten(0, 1)


def _bias(seen: Tensor, relative: Relative | None, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is seen (N, 1, Q, S) as a mask, or as an additive bias together with the relative one."""
    if relative is None:
        return seen
    return torch.where(seen, relative(offset).to(dtype), -torch.inf)


def _softmax(
    q_blhe: Tensor,
    k_bshe: Tensor,
    v_bshe: Tensor,
    bias: Tensor | None,
    dropout: float,
    *,
    causal: bool = False,
) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_blhe, k_bshe, v_bshe))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal)
    return y.transpose(1, 2)
