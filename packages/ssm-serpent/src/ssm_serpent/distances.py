"""Signed distances from grid points to the tokens in their windows (the d of eq. 12b).

Every index is piecewise constant in the intervals, so these distances are the only road by which gradient reaches
them: d_{k,j} = S_{s_k + j} - k moves one to one with each interval up to token s_k + j.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_serpent.intervals import TICKS


def distances(u_bl: Tensor, times_bl: Tensor, start_bk: Tensor, inside_bkw: Tensor) -> Tensor:
    """Measure d_{k,j} = S_{s_k + j} - k for every slot of every window.

    The difference is taken between integers and only then becomes a float: exact in float32 while |d| < 16.

    Args:
        u_bl: (B, L) float intervals; only their gradient and dtype are used.
        times_bl: (B, L) int64, S in ticks.
        start_bk: (B, K) int64, first token of window k (row k - 1), tokens counted from 0; non-decreasing over the
            rows in use; negative where a trailing window starts before the sequence.
        inside_bkw: (B, K, W) bool, True where the slot holds a token of the row.

    Returns:
        (B, K, W) in the dtype of `u_bl` and in units of the grid's spacing, negative for tokens before the point;
        0 in slots that hold no token. The backward pass is the reverse running sum grad_u_i = sum of grad_d over the
        slots holding token i or a later one, accumulated in float64 without atomics.

    Source: eq. (12b), SeRpEnt, arXiv 2501.11729; gradient derived.
    """
    return _Distances.apply(u_bl, times_bl, start_bk, inside_bkw)  # pyright: ignore[reportReturnType]


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(u_bl: Tensor, times_bl: Tensor, start_bk: Tensor, inside_bkw: Tensor) -> Tensor:
        n_points, window = inside_bkw.shape[1:]
        if times_bl.shape[1] == 0:
            return u_bl.new_zeros(inside_bkw.shape)
        slot_w = torch.arange(window, device=u_bl.device)
        token_bkw = (start_bk[:, :, None] + slot_w).clamp(0, times_bl.shape[1] - 1)
        times_bkw = times_bl.gather(1, token_bkw.flatten(1)).view_as(token_bkw)
        grid_k = torch.arange(1, n_points + 1, device=u_bl.device) * TICKS
        ticks_bkw = (times_bkw - grid_k[:, None]).where(inside_bkw, 0)
        return ticks_bkw.to(u_bl.dtype) / TICKS

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        u_bl, _, start_bk, inside_bkw = inputs
        ctx.save_for_backward(start_bk, inside_bkw)
        ctx.length, ctx.dtype = u_bl.shape[1], u_bl.dtype

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        start_bk, inside_bkw = ctx.saved_tensors
        grad_bl = _suffix_sums(grad_outputs[0], start_bk, inside_bkw, ctx.length)
        return grad_bl.to(ctx.dtype), None, None, None


def _suffix_sums(grad_bkw: Tensor, start_bk: Tensor, inside_bkw: Tensor, length: int) -> Tensor:
    """Sum the gradient of all slots (k, j) with s_k + j >= i, for each token i: (B, length) float64.

    For a fixed slot j these are the windows k with s_k >= i - j. Starts are sorted, so they are a suffix of the rows:
    one running sum per slot and one gather replace a scatter, and the result is the same in every run.
    """
    if length == 0:
        return grad_bkw.new_zeros(grad_bkw.shape[0], 0)
    window = inside_bkw.shape[2]
    # float64: the sums run over K W terms of either sign, and what cancels in float32 does not come back.
    grad_bkw = grad_bkw.double().where(inside_bkw, 0.0)
    suffix_bkw = grad_bkw.flip(1).cumsum(1).flip(1)
    suffix_bkw = torch.nn.functional.pad(suffix_bkw, (0, 0, 0, 1))
    # Unused rows carry no gradient; sorted last, they cannot disturb the search.
    start_bk = start_bk.where(inside_bkw.any(2), length)
    needed = torch.arange(1 - window, length, device=start_bk.device)
    needed_bm = needed.expand(start_bk.shape[0], -1).contiguous()
    first_bm = torch.searchsorted(start_bk.contiguous(), needed_bm)
    first_blw = first_bm.unfold(1, window, 1).flip(2)
    return suffix_bkw.gather(1, first_blw).sum(2)
