"""Learned time intervals (eq. 13) and the exact times they add up to (eq. 9).

Only the ratio of a time to the grid's spacing Delta decides an index, so everything here is in units of Delta: grid
point k sits at time k. Times are integers, 2^20 ticks to the unit, for two reasons. A float32 running sum over
16,384 tokens drifts by 0.04 units, enough to move 0.5 % of the indices. And integer addition is associative: a whole
sequence, its chunks and a token-by-token loop give the same times bit for bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_serpent._checks import require

TICKS = 1 << 20
"""Ticks in one unit of time, the spacing of the grid."""


class Intervals(NamedTuple):
    """One interval per token, and the running times.

    Attributes:
        u_bl: (B, L) float, eq. 13 rounded to whole ticks, in units of Delta; 0 on padding. Differentiable.
        ticks_bl: (B, L) int64, the same in ticks: `u_bl * TICKS` exactly.
        times_bl: (B, L) int64, inclusive running sum of `ticks_bl`: S_l of eq. 9, in ticks. Flat over padding.
        length_b: (B,) int64, valid tokens in each row (one past the last, where there is a history).
    """

    u_bl: Tensor
    ticks_bl: Tensor
    times_bl: Tensor
    length_b: Tensor


def intervals(logits_bl: Tensor, lo: float, hi: float, mask_bl: Tensor | None = None) -> Intervals:
    """Turn logits into intervals u = lo + (hi - lo) sigmoid(logits), and add them up.

    The typeset eq. (13) is lost; `lo` and `hi` cover what its text and the authors' blog allow, for a compression
    kappa in (0, 1], K points being kept of L tokens:

    | reading | lo | hi | guarantees, r being what the mode rounds by |
    |---|---|---|---|
    | (a), the default of the method | kappa | 1 | at least r(kappa L) points |
    | (b), an upper cap alone | 0 | kappa | at most r(kappa L) points |
    | capped and never degenerate | kappa / 4 | kappa | between r(kappa L / 4) and r(kappa L) points |

    Mode "causal" rounds down, r(S) = floor(S); "nearest" to the nearest number, r(S) = max(1, ceil(S - 1/2)).

    Args:
        logits_bl: (B, L) float, one scalar per token: w . x_l + b.
        lo: smallest interval, in units of the grid's spacing.
        hi: largest interval; at most 1, so that a token finishes one point at most.
        mask_bl: (B, L) bool, True = valid, padding at the end of each row only; None = all valid. Padding gets
            u = 0 and no gradient, whatever its logits hold, NaN included.

    Returns:
        The intervals. Gradient reaches `logits_bl` through `u_bl`; rounding to ticks passes it straight through.

    Raises:
        ValueError: shapes, `lo` and `hi`, or a mask with a hole. On CUDA the last is a device assertion.

    Source: eq. (13), SeRpEnt, arXiv 2501.11729, section 3.
    """
    _check_range(lo, hi)
    _check_tensors(logits_bl, mask_bl, "logits_bl")
    # Selected before the sigmoid: after it, NaN * 0 in the backward pass would still leak.
    safe_bl = logits_bl if mask_bl is None else logits_bl.where(mask_bl, 0.0)
    # float64, because a CPU's vector and scalar float32 sigmoids differ in the last bit, and so therefore would the
    # ticks of a sequence and of its prefix. There is one scalar a token: the cost is nothing.
    out = fixed_point(lo + (hi - lo) * torch.sigmoid(safe_bl.detach().double()), lo, hi, mask_bl)
    wide_bl = safe_bl.to(torch.promote_types(logits_bl.dtype, torch.float32))
    return out._replace(u_bl=_carrying(out.u_bl.to(wide_bl.dtype), (hi - lo) * torch.sigmoid(wide_bl)))


def fixed_point(u_bl: Tensor, lo: float, hi: float, mask_bl: Tensor | None = None) -> Intervals:
    """Round intervals that are already there to ticks, and add them up.

    The bounds are kept exactly: the result lies in [lo, hi], not within half a tick of it, and never below one tick,
    so that times strictly increase. (Where no whole tick lies between `lo` and `hi`, the upper bound is the one
    kept.)

    Args:
        u_bl: (B, L) float, in units of the grid's spacing. Values outside [lo, hi] are clipped.
        lo: smallest interval.
        hi: largest interval, in [2^-20, 1].
        mask_bl: as in `intervals`.

    Returns:
        The intervals; clipping and rounding pass the gradient straight through to `u_bl`.

    Raises:
        ValueError: as `intervals`.
    """
    _check_range(lo, hi)
    _check_tensors(u_bl, mask_bl, "u_bl")
    if mask_bl is not None:
        u_bl = u_bl.where(mask_bl, 0.0)
    least, most = tick_range(lo, hi)
    ticks_bl = (u_bl.detach() * TICKS).round().long().clamp(least, most)
    if mask_bl is not None:
        ticks_bl = ticks_bl.where(mask_bl, 0)
        length_b = mask_bl.sum(1)
    else:
        length_b = ticks_bl.new_full(ticks_bl.shape[:1], ticks_bl.shape[1])
    rounded_bl = _carrying(ticks_bl.to(u_bl.dtype) / TICKS, u_bl)
    return Intervals(rounded_bl, ticks_bl, ticks_bl.cumsum(1), length_b)


def tick_range(lo: float, hi: float) -> tuple[int, int]:
    """Return the smallest and the largest interval in ticks: the whole ticks of [lo, hi], at least one."""
    most = max(1, math.floor(hi * TICKS))
    return min(most, max(1, math.ceil(lo * TICKS))), most


def _carrying(value: Tensor, source: Tensor) -> Tensor:
    # What is added is an exact zero with the gradient of the source, and NaN where that is NaN.
    return value + (source - source.detach())


def _check_range(lo: float, hi: float) -> None:
    if not (0 <= lo <= hi <= 1 and hi * TICKS >= 1):
        raise ValueError(
            f"intervals: lo={lo} and hi={hi} must satisfy 0 <= lo <= hi and 2^-20 <= hi <= 1, in units of the grid's "
            "spacing. For a compression kappa in (0, 1] give lo=kappa, hi=1 (at least kappa L points, rounded) or "
            "lo=0, hi=kappa (at most)."
        )


def _check_tensors(values_bl: Tensor, mask_bl: Tensor | None, name: str) -> None:
    if values_bl.ndim != 2 or not values_bl.is_floating_point():
        raise ValueError(
            f"intervals: {name} must be a float tensor of shape (batch, length), one scalar a token; got "
            f"{values_bl.dtype} of shape {tuple(values_bl.shape)}. Squeeze the channel axis of a (B, L, 1) projection."
        )
    if mask_bl is None:
        return
    if mask_bl.shape != values_bl.shape or mask_bl.dtype != torch.bool:
        raise ValueError(
            f"intervals: mask_bl must be bool of {name}'s shape {tuple(values_bl.shape)}, True = valid; got "
            f"{mask_bl.dtype} of shape {tuple(mask_bl.shape)}."
        )
    require(
        mask_bl[:, :-1] | ~mask_bl[:, 1:],
        "intervals: mask_bl has a valid token after padding. Neighbours are blocks of consecutive tokens, so padding "
        "must be at the end of each row: move the valid tokens of each row to its front.",
    )
