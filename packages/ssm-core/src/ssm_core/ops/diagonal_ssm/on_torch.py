"""The diagonal scan in plain torch calls: discretise every step, then a linear scan. Any device.

Nothing of the discretisation is kept for backward; it is computed again there. The formulas are those of `on_numba`.
The linear scan is another backend's if one is handed over, as `on_triton` does.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch import conj_physical as conj

from ssm_core.discretize import discretize, phi_1_slope
from ssm_core.ops.linear_scan import on_torch as linear_scan


def forward(
    dt: Tensor,
    A: Tensor,
    bu: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    scan: ModuleType = linear_scan,
) -> tuple[Tensor, Tensor]:
    """x (B,L,N) and the state (B or S,N) after each sequence. Clean inputs of one precision assumed."""
    a_bar, gain = discretize(A, dt, method)
    return scan.forward(a_bar, gain.mul_(bu), initial_state, cu_seqlens, reverse=False)


def backward(
    dt: Tensor,
    A: Tensor,
    bu: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    x: Tensor,
    grad_x: Tensor,
    grad_state: Tensor,
    method: str,
    scan: ModuleType = linear_scan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of dt (B,L,N), A (N,), bu (B,L,N) and the initial state (B or S,N)."""
    a_bar, gain = discretize(A, dt, method)
    grad_a_bar, lam, grad_initial = scan.backward(
        a_bar, x, initial_state, cu_seqlens, grad_x, grad_state, reverse=False
    )
    grad_gain = lam * conj(bu)
    if method == "bilinear":
        e = (1.0 - 0.5 * dt * A).reciprocal().square()
        v = 0.5 * dt.square() * e
    else:
        e = a_bar
        v = dt.square() * phi_1_slope(dt * A)
    grad_dt = torch.real(conj(e) * (conj(A) * grad_a_bar + grad_gain)).contiguous()
    grad_A = (dt * conj(e) * grad_a_bar + conj(v) * grad_gain).sum((0, 1))
    return grad_dt, grad_A, conj(gain) * lam, grad_initial
