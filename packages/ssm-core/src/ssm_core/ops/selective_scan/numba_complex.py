"""Kernels of the selective scan for complex A and every discretisation, in float64 whatever the data.

Laid out as in `numba_real`, complex arrays as pairs of columns. A has four rows a state: Re a, Im a, Re 1/a, Im 1/a
(0 where a is). With lambda the gradient of x, q = lambda conj(x_{t-1}) and w = lambda conj(B) u, the slopes (e, e', v)
of `discretization.slopes` give

    dt_bar = Re conj(e a) q + Re conj(e') w,   A_bar = conj(e dt) q + conj(v) w.

`scale` is 2 where the states stand for conjugate pairs, 1 where they have no imaginary part.
"""

import numpy as np

from ssm_core.opkit.numba_exp import expm1
from ssm_core.opkit.numba_holds import bilinear, resolvent, zoh, zoh_slope
from ssm_core.opkit.numba_runtime import ONE, inlined, jit

EULER, ZOH = 0, 1


@jit
def forward(
    u,
    dt,
    A,
    B,
    b_fixed,
    C,
    c_fixed,
    y,
    state,
    kept,
    offsets,
    blocks,
    chunk,
    method,
    scale,
    first_row,
    last_row,
    low,
    high,
):
    """Fill y and the kept states; `state` comes with the initial states and leaves with the final ones."""
    states, width = A.shape[1], A.shape[2]
    step, b, c = np.empty((4, width)), np.empty((2, width)), np.empty((2, width))
    out = np.empty(width)
    for s in range(first_row, last_row):
        slot = offsets[s] // chunk + s
        for block in range(low, high):
            d0, d1, group = blocks[block, 0], blocks[block, 1], blocks[block, 2]
            for t in range(offsets[s], offsets[s + 1]):
                at = t - offsets[s]
                if at % chunk == 0:
                    for n in range(states):
                        for d in range(d0 + d0, d1 + d1):
                            kept[slot + at // chunk, n, d] = state[s, n, d]
                for d in range(d0, d1):
                    out[d] = 0.0
                for n in range(states):
                    _row(b, B, b_fixed, t, group, n, d0, d1)
                    _row(c, C, c_fixed, t, group, n, d0, d1)
                    _factors(step, dt, t, A, n, method, d0, d1)
                    for d in range(d0, d1):
                        re, im = d + d, d + d + ONE
                        x_re, x_im, drive = state[s, n, re], state[s, n, im], np.float64(u[t, d])
                        in_re = drive * (step[2, d] * b[0, d] - step[3, d] * b[1, d])
                        in_im = drive * (step[2, d] * b[1, d] + step[3, d] * b[0, d])
                        new_re = step[0, d] * x_re - step[1, d] * x_im + in_re
                        new_im = step[0, d] * x_im + step[1, d] * x_re + in_im
                        state[s, n, re], state[s, n, im] = new_re, new_im
                        out[d] += c[0, d] * new_re - c[1, d] * new_im
                for d in range(d0, d1):
                    y[t, d] = scale * out[d]


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
    method,
    scale,
    first_row,
    last_row,
    low,
    high,
):
    """Fill the gradients; `carry` comes with that of the final states and leaves with that of the initial ones."""
    states, width = A.shape[1], A.shape[2]
    x = np.empty((chunk + 1, states, 2 * width))
    step, slope, b, c = np.empty((4, width)), np.empty((6, width)), np.empty((2, width)), np.empty((2, width))
    lam, sum_u, sum_dt = np.empty((2, width)), np.empty(width), np.empty(width)
    for s in range(first_row, last_row):
        steps = offsets[s + 1] - offsets[s]
        slot = offsets[s] // chunk + s
        for block in range(low, high):
            d0, d1, group = blocks[block, 0], blocks[block, 1], blocks[block, 2]
            for part in range((steps + chunk - 1) // chunk - 1, -1, -1):
                begin = offsets[s] + part * chunk
                count = min(chunk, offsets[s + 1] - begin)
                _again(
                    x, u, dt, A, B, b_fixed, kept, slot + part, begin, count, group, method, step, b, d0, d1
                )
                for q in range(count - 1, -1, -1):
                    t = begin + q
                    for d in range(d0, d1):
                        sum_u[d] = 0.0
                        sum_dt[d] = 0.0
                    for n in range(states):
                        _row(b, B, b_fixed, t, group, n, d0, d1)
                        _row(c, C, c_fixed, t, group, n, d0, d1)
                        _factors(step, dt, t, A, n, method, d0, d1)
                        _slopes(slope, step, dt, t, A, n, method, d0, d1)
                        _carry_back(lam, carry, s, n, c, grad_y, t, step, scale, d0, d1)
                        _gradients(
                            grad_A, s, n, sum_u, sum_dt, lam, x, q, u, dt, t, A, b, step, slope, d0, d1
                        )
                        _of_matrices(
                            grad_B,
                            b_fixed,
                            grad_C,
                            c_fixed,
                            s,
                            block,
                            t,
                            n,
                            lam,
                            x,
                            q,
                            u,
                            grad_y,
                            step,
                            scale,
                            d0,
                            d1,
                        )
                    for d in range(d0, d1):
                        grad_u[t, d] = sum_u[d]
                        grad_dt[t, d] = sum_dt[d]


@jit
def _again(x, u, dt, A, B, b_fixed, kept, slot, begin, count, group, method, step, b, d0, d1):
    """Fill a chunk's states x from the one kept before it."""
    states = A.shape[1]
    for n in range(states):
        for d in range(d0 + d0, d1 + d1):
            x[0, n, d] = kept[slot, n, d]
    for q in range(count):
        t = begin + q
        for n in range(states):
            _row(b, B, b_fixed, t, group, n, d0, d1)
            _factors(step, dt, t, A, n, method, d0, d1)
            for d in range(d0, d1):
                re, im = d + d, d + d + ONE
                drive = np.float64(u[t, d])
                in_re = drive * (step[2, d] * b[0, d] - step[3, d] * b[1, d])
                in_im = drive * (step[2, d] * b[1, d] + step[3, d] * b[0, d])
                x[q + 1, n, re] = step[0, d] * x[q, n, re] - step[1, d] * x[q, n, im] + in_re
                x[q + 1, n, im] = step[0, d] * x[q, n, im] + step[1, d] * x[q, n, re] + in_im


@jit
def _carry_back(lam, carry, s, n, c, grad_y, t, step, scale, d0, d1):
    """lambda_t = carry + scale conj(C) g, and the next carry conj(a_bar) lambda_t."""
    for d in range(d0, d1):
        re, im = d + d, d + d + ONE
        g = scale * np.float64(grad_y[t, d])
        l_re, l_im = carry[s, n, re] + c[0, d] * g, carry[s, n, im] - c[1, d] * g
        lam[0, d], lam[1, d] = l_re, l_im
        carry[s, n, re] = step[0, d] * l_re + step[1, d] * l_im
        carry[s, n, im] = step[0, d] * l_im - step[1, d] * l_re


@jit
def _gradients(grad_A, s, n, sum_u, sum_dt, lam, x, q, u, dt, t, A, b, step, slope, d0, d1):
    """Add state n's part to the gradients of u, dt and A."""
    for d in range(d0, d1):
        re, im = d + d, d + d + ONE
        l_re, l_im, gap = lam[0, d], lam[1, d], np.float64(dt[t, d])
        # conj(B) lambda is the gradient of gain u
        lb_re, lb_im = b[0, d] * l_re + b[1, d] * l_im, b[0, d] * l_im - b[1, d] * l_re
        sum_u[d] += step[2, d] * lb_re + step[3, d] * lb_im
        w_re, w_im = lb_re * np.float64(u[t, d]), lb_im * np.float64(u[t, d])
        x_re, x_im = x[q, n, re], x[q, n, im]
        q_re, q_im = l_re * x_re + l_im * x_im, l_im * x_re - l_re * x_im
        e_re, e_im = slope[0, d], slope[1, d]
        eq_re, eq_im = e_re * q_re + e_im * q_im, e_re * q_im - e_im * q_re  # conj(e) q
        sum_dt[d] += A[0, n, d] * eq_re + A[1, n, d] * eq_im + slope[2, d] * w_re + slope[3, d] * w_im
        grad_A[s, n, re] += gap * eq_re + slope[4, d] * w_re + slope[5, d] * w_im
        grad_A[s, n, im] += gap * eq_im + slope[4, d] * w_im - slope[5, d] * w_re


@jit
def _of_matrices(grad_B, b_fixed, grad_C, c_fixed, s, block, t, n, lam, x, q, u, grad_y, step, scale, d0, d1):
    """State n's part of the gradients of B and C: added up over channels, or over time where they are fixed."""
    b_re, b_im, c_re, c_im = 0.0, 0.0, 0.0, 0.0
    for d in range(d0, d1):
        re, im = d + d, d + d + ONE
        drive, g = np.float64(u[t, d]), scale * np.float64(grad_y[t, d])
        pb_re = drive * (step[2, d] * lam[0, d] + step[3, d] * lam[1, d])
        pb_im = drive * (step[2, d] * lam[1, d] - step[3, d] * lam[0, d])
        pc_re, pc_im = g * x[q + 1, n, re], -g * x[q + 1, n, im]
        if b_fixed:
            grad_B[s, n, re] += pb_re
            grad_B[s, n, im] += pb_im
        if c_fixed:
            grad_C[s, n, re] += pc_re
            grad_C[s, n, im] += pc_im
        b_re, b_im, c_re, c_im = b_re + pb_re, b_im + pb_im, c_re + pc_re, c_im + pc_im
    if not b_fixed:
        grad_B[block, t, n + n], grad_B[block, t, n + n + 1] = b_re, b_im
    if not c_fixed:
        grad_C[block, t, n + n], grad_C[block, t, n + n + 1] = c_re, c_im


@jit
def _row(row, matrix, fixed, t, group, n, d0, d1):
    """Re and Im of one row of B or C, spread over a block's channels."""
    if fixed:
        for d in range(d0, d1):
            row[0, d], row[1, d] = matrix[0, n, d + d], matrix[0, n, d + d + ONE]
    else:
        re, im = matrix[t, group, n + n], matrix[t, group, n + n + 1]
        for d in range(d0, d1):
            row[0, d], row[1, d] = re, im


@inlined
def _factors(step, dt, t, A, n, method, d0, d1):
    """Rows of `step`: Re a_bar, Im a_bar, Re gain, Im gain of state n at step t."""
    for d in range(d0, d1):
        gap = np.float64(dt[t, d])
        if method == EULER:
            m_re, m_im = expm1(gap * A[0, n, d], gap * A[1, n, d])
            step[0, d], step[1, d], step[2, d], step[3, d] = m_re + 1.0, m_im, gap, 0.0
        elif method == ZOH:
            step[0, d], step[1, d], step[2, d], step[3, d] = zoh(
                gap, A[0, n, d], A[1, n, d], A[2, n, d], A[3, n, d]
            )
        else:
            step[0, d], step[1, d], step[2, d], step[3, d] = bilinear(gap, A[0, n, d], A[1, n, d])


@inlined
def _slopes(slope, step, dt, t, A, n, method, d0, d1):
    """Rows of `slope`: Re e, Im e, Re e', Im e', Re v, Im v of state n at step t."""
    for d in range(d0, d1):
        gap = np.float64(dt[t, d])
        if method == EULER:
            slope[0, d], slope[1, d], slope[2, d], slope[3, d] = step[0, d], step[1, d], 1.0, 0.0
            slope[4, d], slope[5, d] = 0.0, 0.0
        elif method == ZOH:
            slope[0, d], slope[1, d], slope[2, d], slope[3, d] = (
                step[0, d],
                step[1, d],
                step[0, d],
                step[1, d],
            )
            slope[4, d], slope[5, d] = zoh_slope(
                gap,
                A[0, n, d],
                A[1, n, d],
                A[2, n, d],
                A[3, n, d],
                step[0, d],
                step[1, d],
                step[2, d],
                step[3, d],
            )
        else:
            r_re, r_im = resolvent(0.5 * gap * A[0, n, d], 0.5 * gap * A[1, n, d])
            e_re, e_im = r_re * r_re - r_im * r_im, 2.0 * r_re * r_im
            slope[0, d], slope[1, d], slope[2, d], slope[3, d] = e_re, e_im, e_re, e_im
            slope[4, d], slope[5, d] = 0.5 * gap * gap * e_re, 0.5 * gap * gap * e_im
