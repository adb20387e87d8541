"""The selective scan in plain torch calls, on any device: discretise, then a linear scan over (channels, states).

Channels are done in slices, so that what is N times as large as the input is never there as a whole; the backward
pass discretises and scans again. The formulas are

    y_t = Re' sum_n C_tn x_tn,   x_t = a_bar_t x_{t-1} + gain_t B_t u_t      (Re' is 2 Re, or nothing for real A)

and with lambda the gradient of x, q = lambda conj(x_{t-1}) that of a_bar and w = lambda conj(B) u that of the gain,

    dt_bar = Re sum_n conj(e A) q + conj(e') w,   A_bar = sum_t conj(e dt) q + conj(v) w,

where e, e' and v are the slopes of `discretization.slopes`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch import conj_physical as conj

from ssm_core.ops.linear_scan import on_torch as linear
from ssm_core.ops.selective_scan.core import slots
from ssm_core.ops.selective_scan.discretization import factors, slopes

# Elements (steps x channels x states) of a slice: several arrays of this size should stay in a CPU's cache.
_SLICE = 1 << 19


def forward(u, dt, A, B, C, initial_state, cu_seqlens, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """y (B,L,D), the state (B or S,D,N) after each sequence, and room for kept states, unused here."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = A.new_empty(rows, *A.shape)
    for part, group in _slices(u, A, B, C):
        dt_p = dt[..., part, None]  # (B, L, d, 1)
        _, _, x, last = _states(u, dt_p, A, B, initial_state, cu_seqlens, method, part, group)
        y[..., part] = _read_out(x, _of(C, part, group))
        state[:, part] = last
    return y, state, A.new_zeros(slots(u.shape[0] * u.shape[1], rows), A.shape[1], A.shape[0])


def backward(
    u, dt, A, B, C, initial_state, cu_seqlens, kept, grad_y, grad_state, method: str
) -> tuple[Tensor | None, ...]:
    """Gradients of u, dt, A, B, C and the initial state."""
    grad_u, grad_dt = torch.empty_like(u), torch.empty_like(dt)
    grad_A, grad_B, grad_C = torch.empty_like(A), torch.zeros_like(B), torch.zeros_like(C)
    grad_initial = torch.empty_like(grad_state)
    twice = 2.0 if A.is_complex() else 1.0
    for part, group in _slices(u, A, B, C):
        dt_p, u_p, B_p = dt[..., part, None], u[..., part, None], _of(B, part, group)
        a_bar, gain, x, _ = _states(u, dt_p, A, B, initial_state, cu_seqlens, method, part, group)
        g = twice * grad_y[..., part, None]
        start = None if initial_state is None else initial_state[:, part]
        q, lam, grad_initial[:, part] = linear.backward(
            a_bar, x, start, cu_seqlens, conj(_of(C, part, group)) * g, grad_state[:, part], reverse=False
        )
        e, e_gain, v = slopes(A[part], dt_p, a_bar, method)
        lam_b = lam * conj(B_p)
        w = lam_b * u_p
        grad_u[..., part] = _real((lam_b * _conj(gain)).sum(-1))
        grad_dt[..., part] = _real((conj(e * A[part]) * q + _conj(e_gain) * w).sum(-1))
        grad_A[part] = (conj(e * dt_p) * q + _conj(v) * w).sum((0, 1))
        _add(grad_B, part, group, lam * _conj(gain) * u_p)
        _add(grad_C, part, group, conj(x) * g)
    return grad_u, grad_dt, grad_A, grad_B, grad_C, None if initial_state is None else grad_initial


def _slices(u: Tensor, A: Tensor, *matrices: Tensor) -> Iterator[tuple[slice, int]]:
    """(channels, group) of each slice; none holds channels of two groups."""
    width, n = A.shape
    groups = max([m.shape[2] for m in matrices if m.ndim == 4], default=1)
    size = max(1, _SLICE // max(u.shape[0] * u.shape[1] * n, 1))
    for group in range(groups):
        low, high = group * width // groups, (group + 1) * width // groups
        for start in range(low, high, size):
            yield slice(start, min(start + size, high)), group


def _of(matrix: Tensor, part: slice, group: int) -> Tensor:
    """B or C of a slice, to broadcast with (B, L, d, N)."""
    return matrix[part] if matrix.ndim == 2 else matrix[:, :, group % matrix.shape[2], None]


def _add(gradient: Tensor, part: slice, group: int, product: Tensor) -> None:
    """Add up (B, L, d, N) over what B or C does not depend on."""
    if gradient.ndim == 2:
        gradient[part] += product.sum((0, 1))
    else:
        gradient[:, :, group % gradient.shape[2]] += product.sum(2)


def _states(u, dt_p, A, B, initial_state, cu_seqlens, method, part, group) -> tuple[Tensor, ...]:
    """a_bar, gain, all states (B, L, d, N) and the last one, of a slice."""
    a_bar, gain = factors(A[part], dt_p, method)
    driven = gain * _of(B, part, group) * u[..., part, None]
    start = None if initial_state is None else initial_state[:, part]
    x, last = linear.forward(a_bar, driven, start, cu_seqlens, reverse=False)
    return a_bar, gain, x, last


def _read_out(x: Tensor, C: Tensor) -> Tensor:
    y = (x * C).sum(-1)
    return 2.0 * y.real if y.is_complex() else y


def _conj(x: Tensor | float) -> Tensor | float:
    return conj(x) if isinstance(x, Tensor) else x


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x
