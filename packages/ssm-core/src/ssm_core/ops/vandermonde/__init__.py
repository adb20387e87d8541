"""The Vandermonde product: a diagonal state-space model's convolution kernel from its poles."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_shape, compute_dtype, output_dtype
from ssm_core.opkit.operator import operator
from ssm_core.ops.vandermonde import reference


def vandermonde(
    v: Tensor, log_x: Tensor, length: int, *, conj: bool = True, backend: str | None = None
) -> Tensor:
    """Evaluate K_l = 2 Re sum_n v_n exp(l log_x_n) for l = 0, ..., length - 1 (Gu et al. 2022, S4D, section 3.3).

    The kernel of x_l = A_bar x_{l-1} + B_bar u_l, y = 2 Re(C x) with diagonal A_bar: v = C B_bar, log_x = dt A. The
    N complex states stand for N conjugate pairs, hence 2 Re. Memory O(H (length + N sqrt(length))), never
    O(H N length), also in backward; the error does not grow with the length.

    Args:
        v: Coefficients (H, N), complex or real, any strides.
        log_x: Logarithms of the nodes (H, N), complex or real, finite. Without unit (dt times A).
        length: Number of values, 0 included.
        conj: Add the conjugate of the sum to it. If False, the sum itself is returned, complex if v or log_x is.
        backend: "reference", "torch" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        K (H, length), real if `conj`, in the precision of v; differentiable in v and log_x (once; on "reference" to
        any order). Arithmetic is in float32 at least, or float64 if v or log_x is, also under autocast; powers are
        always computed in float64.

    Raises:
        ValueError: Shapes, dtypes, devices or `length` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> v, log_x = torch.ones(1, 1), torch.tensor([[0.5]]).log()
        >>> vandermonde(v, log_x, 4).tolist()
        [[2.0, 1.0, 0.5, 0.25]]
    """
    backend = dispatch.requested("vandermonde", backend)
    _check(v, log_x, length)
    wide = torch.promote_types(compute_dtype(v, log_x), torch.complex64)
    with torch.autocast(v.device.type, enabled=False):
        if backend == "reference":
            kernel = reference.vandermonde(v.to(wide), log_x.to(wide), length, conj=conj)
        else:
            (kernel,) = _operator(_reals(v.to(wide)), _reals(log_x.to(wide)), length, conj, backend)
            kernel = kernel if conj else torch.view_as_complex(kernel)
    if not conj and (v.is_complex() or log_x.is_complex()):
        return kernel.to(output_dtype(v, wide))
    return kernel.real.to(v.real.dtype)


def _reals(x: Tensor) -> Tensor:
    """(H, N) complex as (H, N, 2) real: the gradient of the one is that of the other."""
    return torch.view_as_real(x.resolve_conj())


def _fake(v: Tensor, log_x: Tensor, length: int, conj: bool) -> tuple[Tensor]:
    return (v.new_empty((v.shape[0], length) if conj else (v.shape[0], length, 2)),)


_operator = operator(
    "ssm_core::vandermonde", "v log_x", "SymInt length, bool conj", _fake, outputs=1, public=1
)


def _check(v: Tensor, log_x: Tensor, length: int) -> None:
    op = "vandermonde"
    if v.ndim != 2:
        raise ValueError(f"{op}: v has shape {tuple(v.shape)}, expected (H, N)")
    check_numeric(op, v=v, log_x=log_x)
    check_shape(op, "log_x", log_x, v.shape, letters="(H, N)")
    if length < 0:
        raise ValueError(f"{op}: length is {length}, expected 0 or more")


def _probe(backend: str) -> Tensor:
    v, log_x = torch.tensor([[1.0 + 2.0j, -0.5j]]), torch.tensor([[-0.1 + 0.5j, -0.2 + 1.0j]])
    return vandermonde(v, log_x, 5, backend=backend)


dispatch.register("vandermonde", _probe)
