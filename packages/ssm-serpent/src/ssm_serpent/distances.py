"""Signed distances from grid points to the tokens in their windows (the d of eq. 12b).

Every index is piecewise constant in the intervals, so these distances are the only road by which gradient reaches
them: d_{k,j} = S_{s_k + j} - k moves one to one with each interval up to token s_k + j.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ssm_serpent.intervals import TICKS
from ssm_serpent.ops.token_sums import token_sums

Grad = Literal["full", "local"]


def from_ticks(
    u_bl: Tensor, ticks_bkw: Tensor, start_bk: Tensor, inside_bkw: Tensor, event_bk: Tensor | None
) -> Tensor:
    """Turn distances d_{k,j} = S_{s_k + j} - k, known in ticks, into floats that intervals learn through.

    The difference was taken between integers and only now becomes a float: exact in float32 while |d| < 16.

    Args:
        u_bl: (B, L) float intervals; only their gradient and dtype are used.
        ticks_bkw: (B, K, W) int64, the distances in ticks; 0 where not inside.
        start_bk: (B, K) int64, first token of window k (row k - 1), tokens counted from 0; non-decreasing over the
            rows in use; negative where a trailing window starts before the sequence.
        inside_bkw: (B, K, W) bool, True where the slot holds a token of the row.
        event_bk: (B, K) int64, c_k, for the gradient "local"; None for "full".

    Returns:
        (B, K, W) in the dtype of `u_bl` and in units of the grid's spacing, negative for tokens before the point;
        0 in slots that hold no token. Differentiable twice.

    The "full" backward pass is that of the definition, the reverse running sum grad_u_i = sum of grad_d over the slots
    holding token i or a later one. Such a sum grows with the length of the sequence. The "local" one reads
    d_{k,j} = (S_{s_k+j} - S_{c_k}) + (S_{c_k} - k) and takes S_{c_k - 1} in the second bracket for a constant: a window
    gives gradient to its own tokens only. Both are accumulated in float64, without atomics.
    """
    return _Distances.apply(u_bl, ticks_bkw, start_bk, inside_bkw, event_bk)  # pyright: ignore[reportReturnType]


def check_grad(whose: str, grad: str) -> None:
    """Raise a ValueError unless `grad` names a gradient."""
    if grad not in ("full", "local"):
        raise ValueError(
            f"{whose}: grad={grad!r} is neither 'full' (of the definition) nor 'local' (a window's own tokens)."
        )


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(
        u_bl: Tensor, ticks_bkw: Tensor, start_bk: Tensor, inside_bkw: Tensor, event_bk: Tensor | None
    ) -> Tensor:
        return ticks_bkw.to(u_bl.dtype).div_(TICKS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u_bl, _, start_bk, inside_bkw, event_bk = inputs
        ctx.save_for_backward(start_bk, inside_bkw, event_bk)
        ctx.length, ctx.dtype = u_bl.shape[1], u_bl.dtype

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        start_bk, inside_bkw, event_bk = ctx.saved_tensors
        # float64: the sums run over K W terms of either sign, and what cancels in float32 does not come back.
        values_bkw = grad_outputs[0].where(inside_bkw, 0.0).double()
        if event_bk is not None:
            values_bkw = _local(values_bkw, start_bk, event_bk)
        grad_bl = token_sums(values_bkw, start_bk, inside_bkw, ctx.length)
        del values_bkw
        if event_bk is None:
            grad_bl = _running(grad_bl.flip(1)).flip(1)
        return grad_bl.to(ctx.dtype), None, None, None, None


def _running(grad_bl: Tensor) -> Tensor:
    """Return the running sums of each row, meant to be the same bits in every run.

    As torch's source reads, CUDA scans a tensor of a single row with blocks that take over from whichever of those
    before is ready, so that a float's last bits could differ from run to run, and several rows each in order. A second
    row makes one several. Not seen on a GPU yet: a test marked gpu asks.
    """
    if grad_bl.is_cuda and len(grad_bl) == 1:
        return torch.cat([grad_bl, torch.zeros_like(grad_bl)]).cumsum(1)[:1]
    return grad_bl.cumsum(1)


def _local(grad_bkw: Tensor, start_bk: Tensor, event_bk: Tensor) -> Tensor:
    """What each token of a window gets from the distances in it (B, K, W).

    Interval i moves d_{k,j} by 1[i <= s_k + j] - 1[i < c_k]: nothing before the window, since both are 1 there, and
    nothing after it. Of the W gradients of a window, token s_k + j thus gets those from slot j on, less all of them if
    it comes before the event.
    """
    after_bkw = grad_bkw.flip(2).cumsum(2).flip(2)
    token_bkw = start_bk[:, :, None] + torch.arange(grad_bkw.shape[2], device=grad_bkw.device)
    return after_bkw - grad_bkw.sum(2, keepdim=True).where(token_bkw < event_bk[:, :, None], 0.0)
