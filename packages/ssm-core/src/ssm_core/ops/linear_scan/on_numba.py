"""Linear scan by two nested loops: time outside, features inside, so the inner one vectorises.

Arrays are matrices (steps of all sequences, features); complex features are pairs of columns. `offsets` says where
each sequence starts. A time-invariant `a` is a matrix of one row, re-read at every step (a_stride = 0).

The backward kernels run the adjoint recurrence lambda_t = g_t + conj(a_{t+1}) lambda_{t+1} against the direction of
the scan. They carry conj(a_t) lambda_t from step to step in grad_state, which at the end is the initial state's
gradient. A time-invariant `a` gathers its gradient per sequence, in float64 (a sum over every step).
"""

from math import prod

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_runtime import ONE, column, jit, launch, offsets_of, rows_of, states_of


def forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h (B,L,*F) and the state (B or S,*F) after each sequence. Clean inputs of one dtype assumed."""
    offsets = offsets_of(b, cu_seqlens)
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    state = b.new_zeros((len(offsets) - 1, *b.shape[2:]))
    if initial_state is not None:
        state.copy_(initial_state)
    invariant = a.ndim == b.ndim - 2
    arrays = (
        states_of(a[None]) if invariant else rows_of(a),
        0 if invariant else 1,
        rows_of(b),
        rows_of(h),
        states_of(state),
        offsets,
        reverse,
    )
    kernel = _forward_complex if b.is_complex() else _forward_real
    launch(kernel, arrays, offsets, prod(b.shape[2:]))
    return h, state


def backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_state: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a (as a), b (B,L,*F) and the initial state (B or S,*F)."""
    offsets = offsets_of(h, cu_seqlens)
    state = torch.zeros_like(grad_state) if initial_state is None else initial_state
    grad_b = torch.empty_like(h, memory_format=torch.contiguous_format)
    grad_initial = grad_state.clone(memory_format=torch.contiguous_format)
    invariant = a.ndim == h.ndim - 2
    if invariant:
        wide = torch.complex128 if h.is_complex() else torch.float64
        grad_a = torch.zeros(state.shape, dtype=wide)
    else:
        grad_a = torch.empty_like(h, memory_format=torch.contiguous_format)
    arrays = (
        states_of(a[None]) if invariant else rows_of(a),
        0 if invariant else 1,
        rows_of(h),
        states_of(state),
        rows_of(grad_h),
        states_of(grad_a) if invariant else rows_of(grad_a),
        rows_of(grad_b),
        states_of(grad_initial),
        offsets,
        reverse,
    )
    kernel = _backward_complex if h.is_complex() else _backward_real
    launch(kernel, arrays, offsets, prod(h.shape[2:]))
    return grad_a.sum(0).to(a.dtype) if invariant else grad_a, grad_b, grad_initial


# The kernels index matrices in place: a row taken as a view would count a reference per step, and threads that count
# references to one array wait for each other. Where time falls, columns fall too (`column`): memory is then read
# straight backwards, which the hardware foresees.


@jit
def _forward_real(a, a_stride, b, h, state, offsets, reverse, first_row, last_row, low, high):
    for s in range(first_row, last_row):
        steps = offsets[s + 1] - offsets[s]
        for i in range(steps):
            t = offsets[s + 1] - 1 - i if reverse else offsets[s] + i
            for j in range(low, high):
                f = column(j, low, high, reverse)
                new = a[t * a_stride, f] * state[s, f] + b[t, f]
                state[s, f] = new
                h[t, f] = new


@jit
def _forward_complex(a, a_stride, b, h, state, offsets, reverse, first_row, last_row, low, high):
    for s in range(first_row, last_row):
        steps = offsets[s + 1] - offsets[s]
        for i in range(steps):
            t = offsets[s + 1] - 1 - i if reverse else offsets[s] + i
            r = t * a_stride
            for j in range(low, high):
                f = column(j, low, high, reverse)
                re, im = f + f, f + f + ONE
                x_re, x_im = state[s, re], state[s, im]
                new_re = a[r, re] * x_re - a[r, im] * x_im + b[t, re]
                new_im = a[r, re] * x_im + a[r, im] * x_re + b[t, im]
                state[s, re], state[s, im] = new_re, new_im
                h[t, re], h[t, im] = new_re, new_im


@jit
def _backward_real(
    a,
    a_stride,
    h,
    initial_state,
    grad_h,
    grad_a,
    grad_b,
    grad_state,
    offsets,
    reverse,
    first_row,
    last_row,
    low,
    high,
):
    for s in range(first_row, last_row):
        steps, down = offsets[s + 1] - offsets[s], not reverse
        for i in range(steps - 1, -1, -1):
            t = offsets[s + 1] - 1 - i if reverse else offsets[s] + i
            for j in range(low, high):
                f = column(j, low, high, down)
                lam = grad_h[t, f] + grad_state[s, f]
                grad_b[t, f] = lam
                grad_state[s, f] = a[t * a_stride, f] * lam
            if i > 0:
                _products_real(
                    grad_a, s, grad_b, t, h, t + 1 if reverse else t - 1, a_stride, low, high, down
                )
            else:
                _products_real(grad_a, s, grad_b, t, initial_state, s, a_stride, low, high, down)


@jit
def _products_real(grad_a, s, lam, t, before, p, a_stride, low, high, down):
    """Row s of grad_a += lam_t before_p if `a` is time-invariant, else row t of grad_a = lam_t before_p."""
    if a_stride == 0:
        for j in range(low, high):
            f = column(j, low, high, down)
            grad_a[s, f] += np.float64(lam[t, f]) * before[p, f]
    else:
        for j in range(low, high):
            f = column(j, low, high, down)
            grad_a[t, f] = lam[t, f] * before[p, f]


@jit
def _backward_complex(
    a,
    a_stride,
    h,
    initial_state,
    grad_h,
    grad_a,
    grad_b,
    grad_state,
    offsets,
    reverse,
    first_row,
    last_row,
    low,
    high,
):
    for s in range(first_row, last_row):
        steps, down = offsets[s + 1] - offsets[s], not reverse
        for i in range(steps - 1, -1, -1):
            t = offsets[s + 1] - 1 - i if reverse else offsets[s] + i
            r = t * a_stride
            for j in range(low, high):
                f = column(j, low, high, down)
                re, im = f + f, f + f + ONE
                lam_re, lam_im = grad_h[t, re] + grad_state[s, re], grad_h[t, im] + grad_state[s, im]
                grad_b[t, re], grad_b[t, im] = lam_re, lam_im
                grad_state[s, re] = a[r, re] * lam_re + a[r, im] * lam_im
                grad_state[s, im] = a[r, re] * lam_im - a[r, im] * lam_re
            if i > 0:
                _products_complex(
                    grad_a, s, grad_b, t, h, t + 1 if reverse else t - 1, a_stride, low, high, down
                )
            else:
                _products_complex(grad_a, s, grad_b, t, initial_state, s, a_stride, low, high, down)


@jit
def _products_complex(grad_a, s, lam, t, before, p, a_stride, low, high, down):
    """As `_products_real`, with lam_t conj(before_p).

    A product of two float32 is exact in float64, so which of two such products is fused into their sum, which the
    compiler decides anew for a vector and for the columns left over, changes no bit of it.
    """
    if a_stride == 0:
        for j in range(low, high):
            f = column(j, low, high, down)
            re, im = f + f, f + f + ONE
            lam_re, lam_im = np.float64(lam[t, re]), np.float64(lam[t, im])
            grad_a[s, re] += lam_re * before[p, re] + lam_im * before[p, im]
            grad_a[s, im] += lam_im * before[p, re] - lam_re * before[p, im]
    else:
        for j in range(low, high):
            f = column(j, low, high, down)
            re, im = f + f, f + f + ONE
            grad_a[t, re] = lam[t, re] * before[p, re] + lam[t, im] * before[p, im]
            grad_a[t, im] = lam[t, im] * before[p, re] - lam[t, re] * before[p, im]
