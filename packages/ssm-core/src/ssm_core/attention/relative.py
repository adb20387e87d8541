"""Additive biases that depend on the distance of two elements only: T5's buckets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RelativeBuckets(nn.Module):
    """One learned number a head for each bucket of distances (T5, arXiv 1910.10683): exact when near, coarse when far.

    Of the buckets for one direction, the first half hold one distance each; the others grow geometrically up to
    ``max_distance``, and whatever is farther shares the last one.

    Args:
        heads: Number of heads.
        buckets: Number of buckets; both directions share them out if not causal.
        max_distance: Where the last bucket begins to hold everything.
        causal: Keys are never after the query.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.one_way = buckets if causal else buckets // 2
        self.first = bucket_starts(self.one_way, max_distance)
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw from the standard normal, as an embedding."""
        if not self.weight.is_meta:
            self.weight.normal_()

    def forward(self, offset: Tensor) -> Tensor:
        """Map key position minus query position (Q, S), integers, to biases (heads, Q, S)."""
        starts = torch.tensor(self.first, device=offset.device)
        distance = (-offset).clamp(min=0) if self.causal else offset.abs()
        bucket = torch.bucketize(distance, starts, right=True)
        if not self.causal:
            bucket = bucket + self.one_way * (offset > 0)
        return F.embedding(bucket, self.weight).movedim(-1, 0)


def bucket_starts(buckets: int, max_distance: int) -> tuple[int, ...]:
    """Return the smallest distance of each bucket but the first, which starts at 0.

    Bucket e + k of N, with e = N // 2, starts at the smallest n with log(n / e) / log(m / e) (N - e) >= k. In integers,
    n^(N - e) e^k >= e^(N - e) m^k: the logarithm's rounding would decide at powers of two.
    """
    exact = buckets // 2
    far = buckets - exact
    starts = list(range(1, exact + 1))
    for k in range(1, far):
        n = starts[-1]
        while n**far * exact**k < exact**far * max_distance**k:
            n += 1
        starts.append(n)
    return tuple(starts)
