"""Kernels of the selective scan for real A by Mamba's rule, a_bar = exp(dt A) and gain = dt.

States are (N, D) with channels innermost, so that the loops over channels vectorise; a block of channels, all of one
group, goes through all of a sequence's time with its states in the first-level cache. `offsets` says where each
sequence starts, `blocks` holds (first channel, last, group) of each block. B and C are (steps, G, N), or (1, N, D)
where they are the same at every step.

The backward kernel goes through the chunks from the last to the first: it computes a chunk's states again from the
one kept at its start, then runs lambda_t = C_t g_t + a_bar_{t+1} lambda_{t+1} to the left through it. Gradients
that add up over channels (B, C) are summed for each block by itself, so that the number of threads changes nothing.
"""

import numba
import numpy as np

from ssm_core.opkit.numba_real_exp import exp
from ssm_core.opkit.numba_runtime import jit

BLOCK = 64
"""Most channels of a block: its states and a chunk's decays stay in a core's caches."""

# Sums over channels may be taken in another order than written: else they do not vectorise. The order is fixed when
# the kernel is compiled, so two runs give the same bits.
_summing = numba.njit(forceinline=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")


@jit
def forward(
    u, dt, A, B, b_fixed, C, c_fixed, y, state, kept, offsets, blocks, chunk, first_row, last_row, low, high
):
    """Fill y and the kept states; `state` comes with the initial states and leaves with the final ones."""
    states, width = A.shape
    du, out = np.empty(width, u.dtype), np.empty(width, u.dtype)
    for s in range(first_row, last_row):
        slot = offsets[s] // chunk + s
        for block in range(low, high):
            d0, d1, group = blocks[block, 0], blocks[block, 1], blocks[block, 2]
            for t in range(offsets[s], offsets[s + 1]):
                step = t - offsets[s]
                if step % chunk == 0:
                    for n in range(states):
                        for d in range(d0, d1):
                            kept[slot + step // chunk, n, d] = state[s, n, d]
                for d in range(d0, d1):
                    du[d] = dt[t, d] * u[t, d]
                    out[d] = 0
                for n in range(states):
                    if b_fixed or c_fixed:
                        for d in range(d0, d1):
                            b = B[0, n, d] if b_fixed else B[t, group, n]
                            c = C[0, n, d] if c_fixed else C[t, group, n]
                            x = exp(dt[t, d] * A[n, d]) * state[s, n, d] + du[d] * b
                            state[s, n, d] = x
                            out[d] += c * x
                    else:
                        b, c = B[t, group, n], C[t, group, n]
                        for d in range(d0, d1):
                            x = exp(dt[t, d] * A[n, d]) * state[s, n, d] + du[d] * b
                            state[s, n, d] = x
                            out[d] += c * x
                for d in range(d0, d1):
                    y[t, d] = out[d]


@jit
def backward(
    u,
    dt,
    A,
    B,
    b_fixed,
    C,
    c_fixed,
    kept,
    grad_y,
    grad_u,
    grad_dt,
    grad_A,
    grad_B,
    grad_C,
    carry,
    offsets,
    blocks,
    chunk,
    first_row,
    last_row,
    low,
    high,
):
    """Fill the gradients; `carry` comes with that of the final states and leaves with that of the initial ones."""
    states = A.shape[0]
    # Of one chunk and block: the states before each step and after the last, and the decays.
    x, a = np.empty((chunk + 1, states, BLOCK), u.dtype), np.empty((chunk, states, BLOCK), u.dtype)
    du, grad_du, sum_dt = np.empty(BLOCK, u.dtype), np.empty(BLOCK, u.dtype), np.empty(BLOCK, u.dtype)
    lam, b_row, c_row = np.empty(BLOCK, u.dtype), np.empty(BLOCK, u.dtype), np.empty(BLOCK, u.dtype)
    for s in range(first_row, last_row):
        steps = offsets[s + 1] - offsets[s]
        slot = offsets[s] // chunk + s
        for block in range(low, high):
            d0, d1, group = blocks[block, 0], blocks[block, 1], blocks[block, 2]
            w = d1 - d0
            for part in range((steps + chunk - 1) // chunk - 1, -1, -1):
                begin = offsets[s] + part * chunk
                count = min(chunk, offsets[s + 1] - begin)
                _again(x, a, u, dt, A, B, b_fixed, kept, slot + part, begin, count, d0, w, group, du, b_row)
                for q in range(count - 1, -1, -1):
                    t = begin + q
                    for j in range(w):
                        du[j] = dt[t, d0 + j] * u[t, d0 + j]
                        grad_du[j] = 0
                        sum_dt[j] = 0
                    for n in range(states):
                        _row(b_row, B, b_fixed, t, group, n, d0, w)
                        _row(c_row, C, c_fixed, t, group, n, d0, w)
                        for j in range(w):
                            lam_j = carry[s, n, d0 + j] + c_row[j] * grad_y[t, d0 + j]
                            lam[j] = lam_j
                            back = lam_j * a[q, n, j]
                            carry[s, n, d0 + j] = back
                            slope = back * x[q, n, j]  # dL/d(dt A)
                            sum_dt[j] += slope * A[n, d0 + j]
                            grad_A[s, n, d0 + j] += slope * dt[t, d0 + j]
                            grad_du[j] += lam_j * b_row[j]
                        if b_fixed:
                            for j in range(w):
                                grad_B[s, n, d0 + j] += lam[j] * du[j]
                        else:
                            grad_B[block, t, n] = _dot(lam, du, w)
                        if c_fixed:
                            for j in range(w):
                                grad_C[s, n, d0 + j] += grad_y[t, d0 + j] * x[q + 1, n, j]
                        else:
                            grad_C[block, t, n] = _dot_row(grad_y, t, d0, x, q + 1, n, w)
                    for j in range(w):
                        grad_u[t, d0 + j] = grad_du[j] * dt[t, d0 + j]
                        grad_dt[t, d0 + j] = grad_du[j] * u[t, d0 + j] + sum_dt[j]


@jit
def _again(x, a, u, dt, A, B, b_fixed, kept, slot, begin, count, d0, w, group, du, b_row):
    """Fill a chunk's states x, from the one kept before it, and its decays a."""
    states = A.shape[0]
    for n in range(states):
        for j in range(w):
            x[0, n, j] = kept[slot, n, d0 + j]
    for q in range(count):
        t = begin + q
        for j in range(w):
            du[j] = dt[t, d0 + j] * u[t, d0 + j]
        for n in range(states):
            _row(b_row, B, b_fixed, t, group, n, d0, w)
            for j in range(w):
                decay = exp(dt[t, d0 + j] * A[n, d0 + j])
                a[q, n, j] = decay
                x[q + 1, n, j] = decay * x[q, n, j] + du[j] * b_row[j]


@jit
def _row(row, matrix, fixed, t, group, n, d0, w):
    """One row of B or C, spread over a block's channels."""
    if fixed:
        for j in range(w):
            row[j] = matrix[0, n, d0 + j]
    else:
        value = matrix[t, group, n]
        for j in range(w):
            row[j] = value


@_summing
def _dot(x, y, w):
    total = x.dtype.type(0)
    for j in range(w):
        total += x[j] * y[j]
    return total


@_summing
def _dot_row(g, t, d0, x, q, n, w):
    total = x.dtype.type(0)
    for j in range(w):
        total += g[t, d0 + j] * x[q, n, j]
    return total
