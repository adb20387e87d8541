"""What is sampled with the tokens, taken at the points: gaps between them, and tensors that come beside x.

A point stands for one token: the one that finished it in mode "causal", the nearest one in mode "nearest".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core.rows import over
from ssm_serpent.index import Index


def nearest_tokens(index: Index) -> Tensor:
    """Return the token nearest to each point (B, K), the earlier of two; no two points have the same one."""
    far_bkw = index.distance_bkw.detach().abs().masked_fill(~index.inside_bkw, torch.inf)
    nearest = far_bkw == far_bkw.amin(2, keepdim=True)
    return index.start_bk + (nearest.cumsum(2) == 0).sum(2)


def taken(value: Tensor, token_bk: Tensor) -> Tensor:
    """Read (B, L, ...) at tokens (B, K): (B, K, ...)."""
    return value.gather(1, over(token_bk, value).expand(*token_bk.shape, *value.shape[2:]))


def elapsed(gaps_bl: Tensor, token_bk: Tensor, index: Index, before_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time from point to point, and the time since the last one.

    Args:
        gaps_bl: Gap before each token (B, L), L > 0, zero behind a row's end.
        token_bk: The token that a point stands for (B, K).
        index: The points.
        before_b: Time since the last point before the chunk (B,).

    Returns:
        (B, K), zero in rows that are not in use, and (B,); the sums are formed in float64.
    """
    time_bl = gaps_bl.double().cumsum(1)
    at_bk = torch.cat([-before_b[:, None].double(), taken(time_bl, token_bk)], 1)
    between = (at_bk[:, 1:] - at_bk[:, :-1]).where(index.valid_bk, 0.0)
    since = time_bl[:, -1] - at_bk.gather(1, index.count_b[:, None])[:, 0]
    return between.to(before_b.dtype), since.to(before_b.dtype)
