"""The integer part of the index maps as a registered torch operator: one opaque node, whatever computes it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.opkit import dispatch


class Maps(NamedTuple):
    """Integer index maps of a batch; see `ssm_serpent.index.Index`.

    Attributes:
        event_bk: (B, K) int64, 0 in rows that are not in use.
        start_bk: (B, K) int64, 0 in rows that are not in use.
        inside_bkw: (B, K, W) bool.
        ticks_bkw: (B, K, W) int64, the distances in ticks; 0 where not inside.
        point_bl: (B, L) int64, of the tokens after the history.
    """

    event_bk: Tensor
    start_bk: Tensor
    inside_bkw: Tensor
    ticks_bkw: Tensor
    point_bl: Tensor


def index_maps(
    times_bn: Tensor,
    first_b: Tensor,
    end_b: Tensor,
    count_b: Tensor,
    *,
    window: int,
    causal: bool,
    n_points: int,
    history: int,
    backend: str,
) -> Maps:
    """Find the windows of the grid points and the point of each token.

    Args:
        times_bn: (B, N) int64, times in ticks, grid point k being at 2^20 k; the first `history` tokens lie before the
            first point.
        first_b: (B,) int64, the first token there is.
        end_b: (B,) int64, one past the last token there is.
        count_b: (B,) int64, points of each row.
        window: W.
        causal: Trailing windows and the last finished point, instead of the nearest of both.
        n_points: K, rows of the buffer, at least the largest count.
        history: Leading tokens that finish no point and read none.
        backend: A backend's name, or "" for the fastest that runs.

    Returns:
        The maps.
    """
    operands = times_bn, first_b, end_b, count_b
    return Maps(*torch.ops.ssm_serpent.resample_index(*operands, window, causal, n_points, history, backend))


torch.library.define(
    "ssm_serpent::resample_index",
    "(Tensor times, Tensor first, Tensor end, Tensor count, int window, bool causal, SymInt n_points, int history, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("ssm_serpent::resample_index", "CompositeExplicitAutograd")
def _run(
    times: Tensor,
    first: Tensor,
    end: Tensor,
    count: Tensor,
    window: int,
    causal: bool,
    n_points: int,
    history: int,
    backend: str,
) -> Maps:
    times, first, end, count = (x.contiguous() for x in (times, first, end, count))
    if backend == "reference":
        from ssm_serpent.ops.resample_index import brute_force

        return brute_force.forward(times, first, end, count, window, causal, n_points, history)
    given = (times, first, end, count, window, causal, n_points, history)
    home = "ssm_serpent.ops"
    return dispatch.run_backend("forward", "resample_index", backend, *given, first=times, package=home)


@torch.library.register_fake("ssm_serpent::resample_index")
def _fake(times, first, end, count, window, causal, n_points, history, backend) -> Maps:
    batch, length = times.shape
    table, slots = (batch, n_points), (batch, n_points, window)
    return Maps(
        times.new_empty(table),
        times.new_empty(table),
        times.new_empty(slots, dtype=torch.bool),
        times.new_empty(slots),
        times.new_empty(batch, length - history),
    )


def _probe(backend: str) -> Tensor:
    """All maps of two rows, the second padded, with a history of one token."""
    ticks = torch.tensor([[1, 2, 1, 4, 3, 4], [0, 4, 4, 4, 0, 0]]) << 18
    ends, counts = torch.tensor([6, 4]), ticks[:, 1:].sum(1) >> 20
    sizes = {"window": 3, "causal": True, "n_points": 4, "history": 1}
    times = ticks.cumsum(1) - ticks[:, :1]
    maps = index_maps(times, torch.tensor([0, 1]), ends, counts, **sizes, backend=backend)
    return torch.cat([x.flatten().double() for x in maps])


dispatch.register("resample_index", _probe, "ssm_serpent.ops")
