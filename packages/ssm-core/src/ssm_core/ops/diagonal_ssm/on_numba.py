"""The diagonal scan x_t = a_bar_t x_{t-1} + gain_t bu_t with a_bar, gain computed from dt_t and A as it goes.

Arrays are matrices (steps of all sequences, states), complex ones as pairs of columns; `offsets` says where each
sequence starts. `A` has four rows: Re a, Im a, Re 1/a, Im 1/a (0 where a is). States, carries and the factors of a
step are float64 in a thread's own scratch rows, which costs nothing: the loop waits for memory.

The backward kernel recomputes the factors and runs lambda_t = g_t + conj(a_bar_{t+1}) lambda_{t+1} to the left. Both
rules have d a_bar / d dt = a e and d gain / d dt = e for one e, so with q = lambda conj(x^-), w = lambda conj(bu):
dt_bar = Re conj(e) (conj(a) q + w) and a_bar = sum conj(dt e) q + conj(v) w, where v = d gain / d a.
"""

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_holds import bilinear, resolvent, zoh, zoh_slope
from ssm_core.opkit.numba_runtime import ONE, column, inlined, jit, launch, offsets_of, rows_of, states_of


def forward(
    dt: Tensor, A: Tensor, bu: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """x (B,L,N) and the state (B or S,N) after each sequence. Clean inputs of one precision assumed."""
    offsets = offsets_of(bu, cu_seqlens)
    x = torch.empty_like(bu, memory_format=torch.contiguous_format)
    state = torch.zeros((len(offsets) - 1, bu.shape[2]), dtype=torch.complex128)
    if initial_state is not None:
        state.copy_(initial_state)
    arrays = (
        rows_of(dt),
        _with_inverse(A),
        rows_of(bu),
        rows_of(x),
        states_of(state),
        offsets,
        method == "bilinear",
    )
    launch(_forward, arrays, offsets, bu.shape[2])
    return x, state.to(bu.dtype)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of dt (B,L,N), A (N,), bu (B,L,N) and the initial state (B or S,N)."""
    offsets = offsets_of(bu, cu_seqlens)
    state = torch.zeros_like(grad_state) if initial_state is None else initial_state
    grad_dt = torch.empty_like(dt, memory_format=torch.contiguous_format)
    grad_bu = torch.empty_like(bu, memory_format=torch.contiguous_format)
    grad_initial = grad_state.to(torch.complex128, copy=True, memory_format=torch.contiguous_format)
    grad_A = torch.zeros_like(grad_initial)
    arrays = (
        *(rows_of(dt), _with_inverse(A), rows_of(bu), states_of(state), rows_of(x), rows_of(grad_x)),
        *(rows_of(grad_dt), states_of(grad_A), rows_of(grad_bu), states_of(grad_initial)),
        *(offsets, method == "bilinear"),
    )
    launch(_backward, arrays, offsets, bu.shape[2])
    return grad_dt, grad_A.sum(0).to(A.dtype), grad_bu, grad_initial.to(bu.dtype)


def _with_inverse(A: Tensor) -> np.ndarray:
    A = A.detach().resolve_conj().to(torch.complex128)
    inverse = torch.where(A == 0, 0.0, 1.0 / torch.where(A == 0, 1.0, A))
    return torch.stack([A.real, A.imag, inverse.real, inverse.imag]).numpy()


@jit
def _forward(dt, A, bu, x, state, offsets, tustin, first_row, last_row, low, high):
    step = np.empty((4, A.shape[1]))
    for s in range(first_row, last_row):
        for t in range(offsets[s], offsets[s + 1]):
            _factors(step, dt, t, A, tustin, low, high)
            for n in range(low, high):
                re, im = n + n, n + n + ONE
                x_re, x_im, bu_re, bu_im = state[s, re], state[s, im], bu[t, re], bu[t, im]
                new_re = step[0, n] * x_re - step[1, n] * x_im + (step[2, n] * bu_re - step[3, n] * bu_im)
                new_im = step[0, n] * x_im + step[1, n] * x_re + (step[2, n] * bu_im + step[3, n] * bu_re)
                state[s, re], state[s, im] = new_re, new_im
                x[t, re], x[t, im] = new_re, new_im


@jit
def _backward(
    dt,
    A,
    bu,
    state,
    x,
    grad_x,
    grad_dt,
    grad_A,
    grad_bu,
    carry,
    offsets,
    tustin,
    first_row,
    last_row,
    low,
    high,
):
    step, slope, lam = np.empty((4, A.shape[1])), np.empty((4, A.shape[1])), np.empty((2, A.shape[1]))
    for s in range(first_row, last_row):
        for t in range(offsets[s + 1] - 1, offsets[s] - 1, -1):
            _factors(step, dt, t, A, tustin, low, high)
            _slopes(slope, step, dt, t, A, tustin, low, high)
            for j in range(low, high):
                n = column(j, low, high, True)
                re, im = n + n, n + n + ONE
                lam_re, lam_im = grad_x[t, re] + carry[s, re], grad_x[t, im] + carry[s, im]
                lam[0, n], lam[1, n] = lam_re, lam_im
                carry[s, re] = step[0, n] * lam_re + step[1, n] * lam_im
                carry[s, im] = step[0, n] * lam_im - step[1, n] * lam_re
                grad_bu[t, re] = step[2, n] * lam_re + step[3, n] * lam_im
                grad_bu[t, im] = step[2, n] * lam_im - step[3, n] * lam_re
            if t > offsets[s]:
                _products(grad_dt, grad_A, s, lam, slope, dt, A, bu, t, x, t - 1, low, high)
            else:
                _products(grad_dt, grad_A, s, lam, slope, dt, A, bu, t, state, s, low, high)


@jit
def _products(grad_dt, grad_A, s, lam, slope, dt, A, bu, t, before, p, low, high):
    """The gradients of dt and A at step t, from the state before it: row p of `before`."""
    for j in range(low, high):
        n = column(j, low, high, True)
        re, im = n + n, n + n + ONE
        lam_re, lam_im, e_re, e_im = lam[0, n], lam[1, n], slope[0, n], slope[1, n]
        q_re = lam_re * before[p, re] + lam_im * before[p, im]
        q_im = lam_im * before[p, re] - lam_re * before[p, im]
        w_re = lam_re * bu[t, re] + lam_im * bu[t, im]
        w_im = lam_im * bu[t, re] - lam_re * bu[t, im]
        sum_re = A[0, n] * q_re + A[1, n] * q_im + w_re
        sum_im = A[0, n] * q_im - A[1, n] * q_re + w_im
        grad_dt[t, n] = e_re * sum_re + e_im * sum_im
        d = dt[t, n]
        grad_A[s, re] += d * (e_re * q_re + e_im * q_im) + (slope[2, n] * w_re + slope[3, n] * w_im)
        grad_A[s, im] += d * (e_re * q_im - e_im * q_re) + (slope[2, n] * w_im - slope[3, n] * w_re)


@inlined
def _factors(step, dt, t, A, tustin, low, high):
    """Rows of `step`: Re a_bar, Im a_bar, Re gain, Im gain at step t."""
    for j in range(low, high):
        d = np.float64(dt[t, j])
        if tustin:
            step[0, j], step[1, j], step[2, j], step[3, j] = bilinear(d, A[0, j], A[1, j])
        else:
            step[0, j], step[1, j], step[2, j], step[3, j] = zoh(d, A[0, j], A[1, j], A[2, j], A[3, j])


@inlined
def _slopes(slope, step, dt, t, A, tustin, low, high):
    """Rows of `slope`: Re e, Im e, Re v, Im v at step t."""
    for j in range(low, high):
        d = np.float64(dt[t, j])
        if tustin:
            r_re, r_im = resolvent(0.5 * d * A[0, j], 0.5 * d * A[1, j])
            slope[0, j], slope[1, j] = r_re * r_re - r_im * r_im, 2.0 * r_re * r_im
            slope[2, j], slope[3, j] = 0.5 * d * d * slope[0, j], 0.5 * d * d * slope[1, j]
        else:
            slope[0, j], slope[1, j] = step[0, j], step[1, j]
            slope[2, j], slope[3, j] = zoh_slope(
                d, A[0, j], A[1, j], A[2, j], A[3, j], step[0, j], step[1, j], step[2, j], step[3, j]
            )
