"""Sums over runs of consecutive rows, the same bits in every run: what a scatter with atomics is not."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sums(rows_bnd: Tensor, edges_bm: Tensor) -> Tensor:
    """Sum the rows [edges[i], edges[i + 1]) of each batch row, in order.

    Args:
        rows_bnd: (B, N, D) float.
        edges_bm: (B, M + 1) int64, non-decreasing, within 0..N.

    Returns:
        (B, M, D); zero for an empty run.
    """
    if 0 in rows_bnd.shape or edges_bm.shape[1] < 2:
        return rows_bnd.new_zeros(len(rows_bnd), max(edges_bm.shape[1] - 1, 0), rows_bnd.shape[2])
    return (_one_by_one if rows_bnd.device.type == "cpu" else _by_reduction)(rows_bnd, edges_bm)


def _by_reduction(rows_bnd: Tensor, edges_bm: Tensor) -> Tensor:
    """One flat list of edges: what lies between the last edge of a row and the first of the next is dropped."""
    (batch, n, width), segments = rows_bnd.shape, edges_bm.shape[1] - 1
    base_b1 = torch.arange(batch, device=edges_bm.device)[:, None] * n
    flat = torch.nn.functional.pad((edges_bm + base_b1).flatten(), (1, 1))
    flat[-1:].fill_(batch * n)
    sums = torch.segment_reduce(rows_bnd.reshape(batch * n, width), "sum", offsets=flat, axis=0, initial=0)
    return sums[1:].view(batch, segments + 1, width)[:, :-1]


def _one_by_one(rows_bnd: Tensor, edges_bm: Tensor) -> Tensor:
    """The same by adding row after row, which on a CPU is in order, and faster than segment_reduce by far."""
    batch, n, width = rows_bnd.shape
    row_bn = torch.arange(n).expand(batch, n).contiguous()
    # Run 0 collects what lies before the first edge, the last one what lies behind.
    run_bn = torch.searchsorted(edges_bm.contiguous(), row_bn, right=True)
    sums = rows_bnd.new_zeros(batch, edges_bm.shape[1] + 1, width)
    run_bn += torch.arange(batch)[:, None] * sums.shape[1]
    sums.view(-1, width).index_add_(0, run_bn.flatten(), rows_bnd.reshape(-1, width))
    return sums[:, 1:-1]
