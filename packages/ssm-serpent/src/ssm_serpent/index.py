"""The index maps of selective resampling: which tokens make a point, and which point a token reads back.

All follow from the running times S by integer arithmetic and searches in sorted rows: O(L W) memory, no K x L table.
Tokens are counted from 0, as the rows of a tensor are. Points keep the paper's k = 1..K, because point k sits at time
k; it is stored in row k - 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssm_serpent._checks import require
from ssm_serpent.distances import distances
from ssm_serpent.intervals import TICKS, Intervals, tick_range

Mode = Literal["nearest", "causal"]


class Index(NamedTuple):
    """Index maps of a batch; K is the number of rows in the buffer, of which row b uses the first `count_b[b]`.

    Attributes:
        count_b: (B,) int64, K_b, the number of points.
        event_bk: (B, K) int64, c_k, the first token whose time reaches k, at which a causal point is finished. The
            last point of mode "nearest" may lie past every token; its event is then the last token.
        start_bk: (B, K) int64, s_k, the first token of the window; negative where a trailing window starts before
            the sequence.
        valid_bk: (B, K) bool, True for the rows in use. In the others `event_bk` and `start_bk` are 0.
        inside_bkw: (B, K, W) bool, True where slot j of window k holds a token, namely `start_bk + j`.
        distance_bkw: (B, K, W) float, d_{k,j} = S_{s_k + j} - k, in units of the grid's spacing; 0 where not inside.
            Differentiable with respect to the intervals; see `distances`.
        point_bl: (B, L) int64, q(l), the point that token l reads back: 1..K_b, or 0 for none (padding; mode "causal"
            before the first point is finished).
    """

    count_b: Tensor
    event_bk: Tensor
    start_bk: Tensor
    valid_bk: Tensor
    inside_bkw: Tensor
    distance_bkw: Tensor
    point_bl: Tensor


def resample_index(spans: Intervals, window: int, mode: Mode, *, max_points: int | None = None) -> Index:
    """Lay the grid k = 1, 2, ... over the times and find all index maps.

    Mode "nearest" takes the W tokens nearest to each point and lets each token read the nearest point: for
    classification, since it looks ahead. Mode "causal" takes the W tokens that end at the one that finishes the point
    and lets each token read the last finished one; nothing depends on a later token. Ties go to the earlier one.

    Args:
        spans: what `intervals` or `fixed_point` returned for a (B, L) batch.
        window: W, at least 1, the slots of a window.
        mode: "nearest" or "causal".
        max_points: rows of the buffer. None: as many as the fullest row needs, which makes the host wait for the
            device. A number, such as this module's `max_points(...)` gives: nothing waits, shapes are static, and the
            call can be captured in a CUDA graph or compiled whole.

    Returns:
        The index maps.

    Raises:
        ValueError: `window`, `mode`, a negative `max_points`, or one smaller than the number of points (the last is a
            device assertion on CUDA).

    Source: eqs. (11), (12a), (15a) and Figure 2, SeRpEnt, arXiv 2501.11729; the counting rules and the causal form
    are this project's reading, the paper's formulas being lost.
    """
    _check_mode(mode)
    if window < 1:
        raise ValueError(f"resample_index: window={window} must be at least 1: a point is made of W tokens.")
    count_b, point_bl = _grid(spans, mode)
    n_points = _buffer(count_b, max_points)
    k = torch.arange(1, n_points + 1, device=count_b.device)
    grid_bk = (k * TICKS).expand(count_b.shape[0], -1)
    valid_bk = k <= count_b[:, None]
    last_b1 = (spans.length_b - 1)[:, None]
    event_bk = _count_below(spans.times_bl, grid_bk).minimum(last_b1)
    start_bk = event_bk - (window - 1) if mode == "causal" else _nearest_start(spans, grid_bk, window)
    token_bkw = start_bk[:, :, None] + torch.arange(window, device=count_b.device)
    inside_bkw = valid_bk[:, :, None] & (token_bkw >= 0) & (token_bkw <= last_b1[:, :, None])
    start_bk = start_bk.where(valid_bk, 0)
    distance_bkw = distances(spans.u_bl, spans.times_bl, start_bk, inside_bkw)
    event_bk = event_bk.where(valid_bk, 0)
    return Index(count_b, event_bk, start_bk, valid_bk, inside_bkw, distance_bkw, point_bl)


def max_points(length: int, hi: float, mode: Mode) -> int:
    """Bound the number of points of any row, for a buffer of static size.

    Args:
        length: L, tokens of the padded batch.
        hi: the largest interval, as given to `intervals`.
        mode: "nearest" or "causal".

    Returns:
        floor(hi L) for "causal"; floor(hi L + 1/2), at least 1 where there is a token, for "nearest".
    """
    _check_mode(mode)
    ticks = length * tick_range(0.0, hi)[1]
    if mode == "causal":
        return ticks // TICKS
    return max(min(length, 1), (ticks + TICKS // 2 - 1) // TICKS)


def _grid(spans: Intervals, mode: Mode) -> tuple[Tensor, Tensor]:
    """Return K_b (B,) and q(l) (B, L): the grid points within reach of the end, and of each token."""
    last_b = spans.ticks_bl.sum(1)
    padding_bl = spans.ticks_bl == 0
    if mode == "causal":
        return last_b // TICKS, (spans.times_bl // TICKS).masked_fill(padding_bl, 0)
    # ceil(S - 1/2): the nearest point, ties to the earlier. One point at least, so that no short row is dropped.
    count_b = _ceil_minus_half(last_b).maximum(spans.length_b.clamp(max=1))
    point_bl = _ceil_minus_half(spans.times_bl).clamp(min=1).minimum(count_b[:, None])
    return count_b, point_bl.masked_fill(padding_bl, 0)


def _nearest_start(spans: Intervals, grid_bk: Tensor, window: int) -> Tensor:
    """Return s_k (B, K) of the W nearest tokens: contiguous, because times are sorted.

    The block that starts at s gives way to the one at s + 1 once k is past the midpoint of the token it would drop
    and the token it would gain, and midpoints are sorted too: s_k is the number of them below k.
    """
    twice_mid_bs = spans.times_bl[:, :-window] + spans.times_bl[:, window:]
    start_bk = _count_below(twice_mid_bs, 2 * grid_bk)
    return start_bk.minimum((spans.length_b - window).clamp(min=0)[:, None])


def _buffer(count_b: Tensor, max_points: int | None) -> int:
    """Return the rows of the buffer: measured on the device, or the static number given."""
    if max_points is None:
        return int(count_b.max()) if count_b.numel() else 0
    if max_points < 0:
        raise ValueError(f"resample_index: max_points={max_points} must be None or at least 0.")
    require(
        count_b <= max_points,
        f"resample_index: max_points={max_points} is less than the number of points of some row. Size the buffer with "
        "ssm_serpent.index.max_points(length, hi, mode), or leave it out to measure it.",
    )
    return max_points


def _ceil_minus_half(times: Tensor) -> Tensor:
    return (times + (TICKS // 2 - 1)) // TICKS


def _count_below(sorted_bn: Tensor, query_bk: Tensor) -> Tensor:
    return torch.searchsorted(sorted_bn.contiguous(), query_bk.contiguous())


def _check_mode(mode: str) -> None:
    if mode not in ("nearest", "causal"):
        raise ValueError(f"ssm_serpent.index: mode={mode!r} is neither 'nearest' (looks ahead) nor 'causal'.")
