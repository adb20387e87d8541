"""One step of the selective scan in torch calls, and its adjoint.

The forward is made of operations that torch differentiates to any order. The backward is for those who cannot let it:
the operator that torch knows, whose forward is a kernel on GPUs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.selective_scan.discretization import factors, slopes


def forward(
    x: Tensor,
    state: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    method: str,
) -> tuple[Tensor, Tensor]:
    """y (B, D), and the state after the step (B, D, N)."""
    gap = dt if dt_bias is None else dt + dt_bias
    gap = F.softplus(gap) if softplus else gap
    B, C = (_by_channel(m, A.shape[0]) for m in (B, C))
    a_bar, gain = factors(A, gap[..., None], method)
    state = a_bar * state + gain * B * x[..., None]  # (B, D, N)
    y = (C * state).sum(-1)
    y = 2.0 * y.real if y.is_complex() else y
    y = y if D is None else y + D * x
    return y if z is None else y * F.silu(z), state


def backward(
    x, state, dt, A, B, C, D, z, dt_bias, grad_y, grad_state, softplus: bool, method: str
) -> tuple[Tensor | None, ...]:
    """Gradients of all tensors, in the letters of the scan's page: lambda, q and w."""
    raw = dt if dt_bias is None else dt + dt_bias
    gap = (F.softplus(raw) if softplus else raw)[..., None]
    a_bar, gain = factors(A, gap, method)
    found = slopes(A, gap, a_bar, method)
    e, e_gain, v = (s if isinstance(s, Tensor) else A.new_full((), s) for s in found)
    b, c = (_by_channel(m, A.shape[0]) for m in (B, C))
    drive, twice = b * x[..., None], 2.0 if A.is_complex() else 1.0
    after, grad_z = a_bar * state + gain * drive, None
    if z is not None:
        y = twice * (c * after).sum(-1).real + (0.0 if D is None else D * x)
        gate = torch.sigmoid(z)
        grad_z = grad_y * y * gate * (1.0 + z * (1.0 - gate))
        grad_y = grad_y * z * gate
    # Not the method conj: below torch's dispatch of conjugate views, as an operator is, such views are misread.
    conj = torch.conj_physical
    weight = twice * grad_y[..., None]
    lam = weight * conj(c) + grad_state
    q, w = lam * conj(state), lam * conj(drive)
    grad_x = (lam * conj(gain * b)).real.sum(-1)
    grad_dt = (conj(e * A) * q + conj(e_gain) * w).real.sum(-1)
    grad_dt = grad_dt * torch.where(raw > 20.0, 1.0, torch.sigmoid(raw)) if softplus else grad_dt
    return (
        grad_x if D is None else grad_x + D * grad_y,
        lam * conj(a_bar),
        grad_dt,
        (conj(e * gap) * q + conj(v) * w).sum(0),
        _gathered(lam * conj(gain) * x[..., None], B),
        _gathered(weight * conj(after), C),
        None if D is None else (grad_y * x).sum(0),
        grad_z,
        None if dt_bias is None else grad_dt.sum(0),
    )


def _by_channel(m: Tensor, width: int) -> Tensor:
    """B or C, to broadcast with (B, D, N)."""
    return m[:, None] if m.ndim == 2 else m.repeat_interleave(width // m.shape[1], 1)


def _gathered(grad: Tensor, m: Tensor) -> Tensor:
    """The gradient of B or C from that of every channel (B, D, N)."""
    if m.ndim == 2:
        return grad.sum(1)
    grad = grad.unflatten(1, (m.shape[1], -1)).sum(2) if grad.shape[1] else grad.new_zeros(m.shape)
    return grad.sum(0, keepdim=True) if len(m) != len(grad) else grad
