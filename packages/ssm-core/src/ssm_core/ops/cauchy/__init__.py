"""The Cauchy product: the transfer function of a diagonal state-space model at given nodes, as S4 needs it."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_shape, compute_dtype, output_dtype
from ssm_core.opkit.operator import operator
from ssm_core.ops.cauchy import reference


def cauchy(v: Tensor, z: Tensor, w: Tensor, *, conj: bool = True, backend: str | None = None) -> Tensor:
    """Evaluate K_f = sum_n v_n / (z_f - w_n) + conj(v_n) / (z_f - conj(w_n)) (Gu et al. 2022, S4, appendix C.3).

    The N complex poles stand for N conjugate pairs, hence the second term. Memory O(H (F + N)), never O(H N F), also
    in backward. Every z must be finite and away from the poles. S4's node z = 2/dt (1 - omega) / (1 + omega) is not at
    the Nyquist frequency, omega = -1. Multiplying numerator and denominator by 1 + omega gives the same term with
    finite nodes, those on the unit circle:

        2 / (1 + omega) v / (z - w) = -a / (omega - p),   a = 2 dt v / (2 + dt w),   p = (2 - dt w) / (2 + dt w).

    Args:
        v: Residues (H, N), complex or real, any strides.
        z: Nodes (F,), or (H, F) if each row has its own, complex or real.
        w: Poles (H, N), complex or real, in the unit of z.
        conj: Add the conjugate poles with the conjugate residues.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        K (H, F), complex, in the precision of v; differentiable in v, z and w (once; on "reference" to any order),
        with torch's convention for complex gradients. Arithmetic is in float32 at least, or float64 if any argument
        is, also under autocast. Differences z - w are exact to the last digit; near a pole, and on the unit circle
        every node is near one, it is the rounding of z and w themselves that counts: pass those in complex128.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> v, w = torch.tensor([[1.0]]), torch.tensor([[-1.0]])
        >>> cauchy(v, torch.tensor([0.0, 1.0j]), w).tolist()
        [[(2+0j), (1-1j)]]
    """
    backend = dispatch.requested("cauchy", backend)
    _check(v, z, w)
    wide = torch.promote_types(compute_dtype(v, z, w), torch.complex64)
    with torch.autocast(v.device.type, enabled=False):
        operands = v.to(wide), z.to(wide), w.to(wide)
        if backend == "reference":
            kernel = reference.cauchy(*operands, conj=conj)
        else:
            (kernel,) = _operator(*operands, conj, backend)
    return kernel.to(output_dtype(v, wide))


def _fake(v: Tensor, z: Tensor, w: Tensor, conj: bool) -> tuple[Tensor]:
    return (v.new_empty(v.shape[0], z.shape[-1]),)


_operator = operator("ssm_core::cauchy", "v z w", "bool conj", _fake, outputs=1, public=1)


def _check(v: Tensor, z: Tensor, w: Tensor) -> None:
    op = "cauchy"
    if v.ndim != 2:
        raise ValueError(f"{op}: v has shape {tuple(v.shape)}, expected (H, N)")
    if z.ndim not in (1, 2):
        raise ValueError(f"{op}: z has shape {tuple(z.shape)}, expected (F,) or (H, F)")
    check_numeric(op, v=v, z=z, w=w)
    check_shape(op, "w", w, v.shape, letters="(H, N)")
    nodes = z.shape[-1]
    check_shape(op, "z", z, (nodes,), (v.shape[0], nodes), letters="(F,) or (H, F)")


def _probe(backend: str) -> Tensor:
    v, w = torch.tensor([[1.0 + 2.0j, -0.5j]]), torch.tensor([[-0.1 + 0.5j, -0.2 + 1.0j]])
    return cauchy(v, torch.tensor([0.0, 1.0j, 2.0j]), w, backend=backend)


dispatch.register("cauchy", _probe)
