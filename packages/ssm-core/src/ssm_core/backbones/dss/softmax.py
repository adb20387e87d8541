"""The kernel of DSS-softmax (DSS paper, proposition 1), also where the rows of a batch differ in length."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core.lti import two_sided
from ssm_core.ops import fft_conv, vandermonde
from ssm_core.ragged import flip_valid

EPSILON = 1e-7
"""In the reciprocal conj(x) / (|x|^2 + EPSILON), as the original code has it."""


def softmax_kernel(w: Tensor, a: Tensor, z: Tensor, length: int, lengths_b: Tensor | None = None) -> Tensor:
    """Return Re sum_n w_n / a_n softmax_k(k z_n) for k < length, the softmax being over each row's own length.

    A mode with Re a > 0 is largest at the end, so it is computed from there: exp(k z) / sum_j exp(j z) is the same with
    -z from the other end. Nothing overflows.

    Args:
        w: W (K, H, N) complex, for K kernels.
        a: Lambda (N,) complex128.
        z: dt Lambda (H, N) complex128.
        length: L.
        lengths_b: Lengths of the rows (B,), each L at most; None is one row of length L.

    Returns:
        Kernels (R, K, H, L) in double precision, R = B or 1; behind a row's end stands anything finite.
    """
    grows = a.real > 0
    falling = torch.where(grows, -z, z)
    ends = torch.full((1,), length, device=z.device) if lengths_b is None else lengths_b
    total = torch.expm1(falling * ends[:, None, None]) * a  # (R, H, N)
    reciprocal = total.conj() / (total.real.square() + total.imag.square() + EPSILON)
    v = w * (torch.expm1(falling) * reciprocal)[:, None]  # (R, K, H, N)
    v, shape = v.flatten(0, 2) / 2, v.shape[:3]  # half, since vandermonde adds the conjugates
    falling, times = falling.repeat(shape[0] * shape[1], 1), torch.zeros_like(v)
    k = vandermonde(torch.where(grows, times, v), falling, length).unflatten(0, shape)
    from_end = vandermonde(torch.where(grows, v, times), falling, length).unflatten(0, shape)
    from_end = flip_valid(from_end.movedim(-1, 1), ends).movedim(1, -1)
    return k + from_end


def convolve_rows(u_blh: Tensor, k: Tensor, D: Tensor, u_back: Tensor | None, start: str) -> Tensor:
    """Convolve each row with its own kernels, by taking rows and channels for one.

    Args:
        u_blh: Inputs (B, L, H).
        k: Kernels (B, 1 or 2, H, L).
        D: Skip weights (H,).
        u_back: Inputs of the second direction (B, L, H) if they are to differ.
        start: As in :func:`ssm_core.lti.two_sided`.

    Returns:
        y (B, L, H).
    """
    batch, _, width = u_blh.shape
    u, back = (None if x is None else x.transpose(0, 1).flatten(1)[None] for x in (u_blh, u_back))
    kernels, skip = k.transpose(0, 1).flatten(1, 2), D.repeat(batch)
    assert u is not None
    if len(kernels) == 1:
        y = fft_conv(u, kernels[0], skip)
    else:
        y = two_sided(u, kernels[0], kernels[1], skip, u_back_blh=back, start=start)
    return y[0].unflatten(1, (batch, width)).transpose(0, 1)
