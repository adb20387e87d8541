"""The index maps of selective resampling: which tokens make a point, and which point a token reads back.

All follow from the running times S by integer arithmetic: one pass over the tokens on a CPU, searches in sorted rows
elsewhere; O(L + K W) time (but for a logarithm) and memory, no K x L table. Every backend gives the same bits. Tokens
are counted from 0, as the rows of a tensor are. Points keep the paper's k = 1..K, because point k sits at time k; it is
stored in row k - 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_serpent._checks import require
from ssm_serpent.distances import Grad, check_grad, from_ticks
from ssm_serpent.intervals import TICKS, Intervals, tick_range
from ssm_serpent.ops.resample_index import index_maps

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
            before the first point is finished). Tokens of a history are left out.
    """

    count_b: Tensor
    event_bk: Tensor
    start_bk: Tensor
    valid_bk: Tensor
    inside_bkw: Tensor
    distance_bkw: Tensor
    point_bl: Tensor


def resample_index(
    spans: Intervals,
    window: int,
    mode: Mode,
    *,
    max_points: int | None = None,
    phase_b: Tensor | None = None,
    history: int = 0,
    grad: Grad = "full",
    backend: str | None = None,
) -> Index:
    """Lay the grid k = 1, 2, ... over the times and find all index maps.

    Mode "nearest" takes the W tokens nearest to each point and lets each token read the nearest point: for
    classification, since it looks ahead. Mode "causal" takes the W tokens that end at the one that finishes the point
    and lets each token read the last finished one; nothing depends on a later token. Ties go to the earlier one.

    In mode "causal" a sequence may come in chunks, with the maps of the whole, bit for bit. From chunk to chunk go

    - the phase, time since the last grid point in ticks: ``(phase_b + spans.ticks_bl.sum(1)) % TICKS``, 0 at first;
    - the last W - 1 tokens and their ticks (0 where a row has had fewer so far), put before the next chunk with
      ``history=W - 1``. Tokens of the history are held by windows, finish no point and read none. `event_bk` and
      `start_bk` count from the first token of the history, as rows of the tokens handed to `encode` do; `point_bl`
      leaves the history out;
    - the last finished point: token l reads it where ``point_bl`` is 0 (``spread(..., before_bh=...)``).

    :class:`ssm_serpent.memory.Memory` holds the first two and goes from chunk to chunk. Points count from 1 in each
    chunk.

    Args:
        spans: what `intervals` or `fixed_point` returned for a (B, L) batch, or `Memory.before_spans` made of it.
        window: W, at least 1, the slots of a window.
        mode: "nearest" or "causal".
        max_points: rows of the buffer. None: as many as the fullest row needs, which makes the host wait for the
            device. A number, such as this module's `max_points(...)` gives: nothing waits, shapes are static, and the
            call can be captured in a CUDA graph or compiled whole.
        phase_b: (B,) int64, 0 <= phase < 2^20, time in ticks from the last grid point to the start of the chunk; None
            is 0. Mode "causal" only.
        history: leading tokens that belong to earlier chunks. Those with 0 ticks, on the left, are not there. Mode
            "causal" only.
        grad: "full", the gradient of the definition, or "local"; see `ssm_serpent.distances.from_ticks`.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        The index maps.

    Raises:
        ValueError: `window`, `mode`, `grad`, `backend`, `history`, a negative `max_points`, or one smaller than the
            number of points, a phase out of range, a gap in the history (the last three are device assertions on
            CUDA).
        RuntimeError: The backend asked for cannot run here.

    Source: eqs. (11), (12a), (15a) and Figure 2, SeRpEnt, arXiv 2501.11729; the counting rules and the causal form
    are this project's reading, the paper's formulas being lost.
    """
    backend = dispatch.requested("resample_index", backend)
    _check(spans, window, mode, phase_b, history)
    check_grad("resample_index", grad)
    times_bn, first_b, count_b = _start(spans, mode, phase_b, history)
    n_points = _buffer(count_b, max_points)
    maps = index_maps(
        times_bn,
        first_b,
        spans.length_b,
        count_b,
        window=window,
        causal=mode == "causal",
        n_points=n_points,
        history=history,
        backend=backend,
    )
    valid_bk = torch.arange(1, n_points + 1, device=count_b.device) <= count_b[:, None]
    event_bk = maps.event_bk if grad == "local" else None
    distance_bkw = from_ticks(spans.u_bl, maps.ticks_bkw, maps.start_bk, maps.inside_bkw, event_bk)
    return Index(
        count_b, maps.event_bk, maps.start_bk, valid_bk, maps.inside_bkw, distance_bkw, maps.point_bl
    )


def max_points(length: int, hi: float, mode: Mode, *, phase: bool = False) -> int:
    """Bound the number of points of any row, for a buffer of static size.

    Args:
        length: L, tokens of the padded batch, without the history.
        hi: the largest interval, as given to `intervals`.
        mode: "nearest" or "causal".
        phase: whether the chunk may start anywhere between two grid points.

    Returns:
        floor(hi L) for "causal", one more with a phase but never more than L; ceil(hi L - 1/2), at least 1 where there
        is a token, for "nearest". hi counts in whole ticks of 2^-20, rounded down, as in `intervals`.
    """
    _check_mode(mode)
    ticks = length * tick_range(0.0, hi)[1]
    if mode == "causal":
        return (ticks + (TICKS - 1 if phase else 0)) // TICKS
    return max(min(length, 1), (ticks + TICKS // 2 - 1) // TICKS)


def _start(
    spans: Intervals, mode: Mode, phase_b: Tensor | None, history: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the times (B, N) from the grid point before the start, the first token (B,) there is, and K_b (B,)."""
    times_bn, end_b = spans.times_bl, spans.ticks_bl[:, history:].sum(1)
    first_b = (spans.ticks_bl[:, :history] == 0).sum(1)
    if history:
        times_bn = times_bn - times_bn[:, history - 1 : history]
    if phase_b is not None:
        times_bn, end_b = times_bn + phase_b[:, None], end_b + phase_b
    if mode == "causal":
        return times_bn, first_b, end_b // TICKS
    # ceil(S - 1/2): the nearest point, ties to the earlier. One point at least, so that no short row is dropped.
    nearest_b = (end_b + (TICKS // 2 - 1)) // TICKS
    return times_bn, first_b, nearest_b.maximum(spans.length_b.clamp(max=1))


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


def _check(spans: Intervals, window: int, mode: str, phase_b: Tensor | None, history: int) -> None:
    _check_mode(mode)
    batch, length = spans.ticks_bl.shape
    if window < 1:
        raise ValueError(f"resample_index: window={window} must be at least 1: a point is made of W tokens.")
    if mode != "causal" and (history or phase_b is not None):
        raise ValueError(
            "resample_index: history and phase_b continue a sequence, which only mode='causal' can do: nearest windows "
            "look ahead. Use mode='causal', or hand over whole sequences."
        )
    if not 0 <= history <= length:
        raise ValueError(f"resample_index: history={history} must lie in 0..{length}, the tokens given.")
    if phase_b is not None:
        if phase_b.shape != (batch,) or phase_b.dtype != torch.int64:
            raise ValueError(
                f"resample_index: phase_b must be int64 of shape ({batch},), got {phase_b.dtype} of shape "
                f"{tuple(phase_b.shape)}."
            )
        require(
            (phase_b >= 0) & (phase_b < TICKS),
            f"resample_index: phase_b must lie in 0..{TICKS - 1} ticks: the time since the last grid point, that is "
            "(phase_b + ticks_bl.sum(1)) % TICKS of the chunk before.",
        )
    if history > 1:
        there = spans.ticks_bl[:, :history] > 0
        require(
            there[:, 1:] | ~there[:, :-1],
            "resample_index: the history has a token of 0 ticks, that is none, after one that is there. Rows with "
            "fewer earlier tokens have them on the right, next to the chunk.",
        )


def _check_mode(mode: str) -> None:
    if mode not in ("nearest", "causal"):
        raise ValueError(f"ssm_serpent.index: mode={mode!r} is neither 'nearest' (looks ahead) nor 'causal'.")
