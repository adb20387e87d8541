"""The long convolution: one kernel a channel, as long as the sequence, causal or to both sides."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.operator import operator
from ssm_core.ops.fft_conv import reference


def fft_conv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    k_reverse: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolve y_t = sum_{j>=0} k_j u_{t-j} + sum_{j>=0} k_reverse_j u_{t+1+j} + D u_t, channel by channel.

    Elements outside 0, ..., L - 1 count as zero. Index 0 of `k` weighs the element t itself, index 0 of `k_reverse`
    the next one, t + 1: no element is counted twice. Time O(B H L log L), by the fast Fourier transform; backward
    keeps u and the kernels only.

    A transform spreads rounding errors over the whole sequence: y_t depends on later inputs (and has a gradient from
    them) of about 1e-7 times the largest in float32, 1e-16 in float64, rather than not at all.

    Args:
        u: Inputs, real (B, L, H), any strides, L = 0 included.
        k: Causal kernel, real (H, K), any K: shorter than the sequence, or longer (the rest is not used).
        D: Skip weight (H,), real, or None.
        k_reverse: Kernel of the anticausal half, real (H, K2), any K2, or None.
        backend: "reference" or "torch"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        y (B, L, H) in the dtype of u, differentiable in all arguments (once; on "reference" to any order).
        Arithmetic is in float32 at least, or float64 if any argument is, also under autocast.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> u, k = torch.tensor([1.0, 2.0, 3.0])[None, :, None], torch.tensor([[1.0, 10.0]])
        >>> fft_conv(u, k, backend="reference").flatten().tolist()
        [1.0, 12.0, 23.0]
        >>> fft_conv(u, k, k_reverse=torch.tensor([[100.0]])).round().flatten().tolist()
        [201.0, 312.0, 23.0]
    """
    backend = dispatch.requested("fft_conv", backend)
    _check(u, k, D, k_reverse)
    dtype = compute_dtype(u, k, D, k_reverse)
    with torch.autocast(u.device.type, enabled=False):
        if backend == "reference":
            D, k_reverse = (None if x is None else x.to(dtype) for x in (D, k_reverse))
            y = reference.fft_conv(u.to(dtype), k.to(dtype), D, k_reverse=k_reverse)
        else:
            (y,) = _operator(u, k, D, k_reverse, backend)
    return y.to(u.dtype)


def _fake(u: Tensor, k: Tensor, D: Tensor | None, k_reverse: Tensor | None) -> tuple[Tensor]:
    return (u.new_empty(u.shape),)


_operator = operator("ssm_core::fft_conv", "u k D? k_reverse?", "", _fake, outputs=1, public=1)


def _check(u: Tensor, k: Tensor, D: Tensor | None, k_reverse: Tensor | None) -> None:
    op = "fft_conv"
    if u.ndim != 3:
        raise ValueError(f"{op}: u has shape {tuple(u.shape)}, expected (B, L, H)")
    check_numeric(op, u=u, k=k, D=D, k_reverse=k_reverse)
    check_real(op, u=u, k=k, D=D, k_reverse=k_reverse)
    width = u.shape[2]
    for name, kernel in (("k", k), ("k_reverse", k_reverse)):
        if kernel is not None and (kernel.ndim != 2 or kernel.shape[0] != width):
            raise ValueError(
                f"{op}: {name} has shape {tuple(kernel.shape)}, expected ({width}, any), that is (H, K)"
            )
    if D is not None:
        check_shape(op, "D", D, (width,), letters="(H,)")


def _probe(backend: str) -> Tensor:
    u, k = torch.ones(1, 4, 2), torch.tensor([[1.0, 0.5], [2.0, -1.0]])
    return fft_conv(u, k, torch.ones(2), k_reverse=0.1 * k, backend=backend)


dispatch.register("fft_conv", _probe)
