"""Triton kernels of the selective scan for complex A: those of `triton_real`, every number a pair of real ones.

Complex arrays are interleaved; y = 2 Re sum_n C x, whose factor 2 enters lambda and the gradient of C.
"""

import triton
import triton.language as tl

from ssm_core.ops.selective_scan._triton_steps import combine_wide, factors_wide, slopes_wide
from ssm_core.ops.selective_scan.triton_real import place


@triton.jit
def pair(pointer, cell, on, ACC: tl.constexpr):
    """Real and imaginary part of the complex numbers at `cell`, 0 where not on."""
    real = tl.load(pointer + 2 * cell, on, 0.0).to(ACC)
    return real, tl.load(pointer + 2 * cell + 1, on, 0.0).to(ACC)


@triton.jit
def put(pointer, cell, real, imaginary, on):
    """Store complex numbers at `cell`."""
    tl.store(pointer + 2 * cell, real, on)
    tl.store(pointer + 2 * cell + 1, imaginary, on)


@triton.jit
def add(pointer, cell, real, imaginary, on):
    """Add to the complex numbers at `cell`, which no other program touches."""
    tl.store(pointer + 2 * cell, tl.load(pointer + 2 * cell, on, 0.0) + real, on)
    tl.store(pointer + 2 * cell + 1, tl.load(pointer + 2 * cell + 1, on, 0.0) + imaginary, on)


@triton.jit
def forward(
    u,
    dt,
    A,
    B,
    C,
    y,
    state,
    kept,
    offsets,
    width,
    states,
    blocks_per_group,
    per_group,
    groups,
    groups_b,
    groups_c,
    B_FIXED: tl.constexpr,
    C_FIXED: tl.constexpr,
    METHOD: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACC: tl.constexpr,
):
    """As `triton_real.forward`."""
    s, _, group_b, group_c, d, on_d = place(blocks_per_group, per_group, groups, groups_b, groups_c, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    on = on_d[:, None] & (n < states)[None, :]
    cell = d[:, None] * states + n[None, :]  # of (D, N)
    a, ai = pair(A, cell, on, ACC)
    x, xi = pair(state, s * width * states + cell, on, ACC)
    if B_FIXED:
        b_fixed, bi_fixed = pair(B, cell, on, ACC)
    if C_FIXED:
        c_fixed, ci_fixed = pair(C, cell, on, ACC)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    slot = start // CHUNK + s
    for t in range(start, stop):
        if (t - start) % CHUNK == 0:
            at = (slot + (t - start) // CHUNK) * states * width
            put(kept, at + n[None, :] * width + d[:, None], x, xi, on)
        gap = tl.load(dt + t * width + d, on_d, 0.0).to(ACC)[:, None]
        drive = tl.load(u + t * width + d, on_d, 0.0).to(ACC)[:, None]
        if B_FIXED:
            b, bi = b_fixed, bi_fixed
        else:
            b, bi = pair(B, ((t * groups_b + group_b) * states + n)[None, :], (n < states)[None, :], ACC)
        if C_FIXED:
            c, ci = c_fixed, ci_fixed
        else:
            c, ci = pair(C, ((t * groups_c + group_c) * states + n)[None, :], (n < states)[None, :], ACC)
        e, ei, gain, gaini = factors_wide(a, ai, gap, METHOD)
        new = e * x - ei * xi + (gain * b - gaini * bi) * drive
        xi = e * xi + ei * x + (gain * bi + gaini * b) * drive
        x = new
        tl.store(y + t * width + d, 2.0 * tl.sum(tl.where(on, c * x - ci * xi, 0.0), 1), on_d)
    put(state, s * width * states + cell, x, xi, on)


@triton.jit
def backward(
    u,
    dt,
    A,
    B,
    C,
    kept,
    grad_y,
    grad_u,
    grad_dt,
    grad_A,
    grad_B,
    grad_C,
    carry,
    offsets,
    width,
    states,
    steps,
    blocks_per_group,
    per_group,
    groups,
    groups_b,
    groups_c,
    B_FIXED: tl.constexpr,
    C_FIXED: tl.constexpr,
    METHOD: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """As `triton_real.backward`."""
    s, block, group_b, group_c, d, on_d = place(
        blocks_per_group, per_group, groups, groups_b, groups_c, BLOCK_D
    )
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    count = (stop - start + CHUNK - 1) // CHUNK
    row = tl.arange(0, CHUNK)
    for i in range(count):
        part = count - 1 - i
        t = start + part * CHUNK + row.to(tl.int64)
        inside = t < stop
        on = inside[:, None] & on_d[None, :]
        on_before = on & (row > 0)[:, None]
        on_after = ((t + 1 < stop) & (row < CHUNK - 1))[:, None] & on_d[None, :]
        cell = t[:, None] * width + d[None, :]
        gap, drive = tl.load(dt + cell, on, 0.0).to(ACC), tl.load(u + cell, on, 0.0).to(ACC)
        gap_before = tl.load(dt + cell - width, on_before, 0.0).to(ACC)
        drive_before = tl.load(u + cell - width, on_before, 0.0).to(ACC)
        gap_after = tl.load(dt + cell + width, on_after, 0.0).to(ACC)
        g = 2.0 * tl.load(grad_y + cell, on, 0.0).to(ACC)
        sum_u, sum_dt = g * 0.0, g * 0.0
        for n in range(states):
            a, ai = pair(A, (d * states + n)[None, :], on_d[None, :], ACC)
            if B_FIXED:
                b, bi = pair(B, (d * states + n)[None, :], on_d[None, :], ACC)
                p, pi = b, bi
            else:
                of_b = ((t * groups_b + group_b) * states + n)[:, None]
                b, bi = pair(B, of_b, inside[:, None], ACC)
                p, pi = pair(B, of_b - groups_b * states, (inside & (row > 0))[:, None], ACC)
            if C_FIXED:
                c, ci = pair(C, (d * states + n)[None, :], on_d[None, :], ACC)
            else:
                c, ci = pair(C, ((t * groups_c + group_c) * states + n)[:, None], inside[:, None], ACC)
            e, ei, gain, gaini = factors_wide(a, ai, gap, METHOD)
            # The state before each step.
            f, fi, q, qi = factors_wide(a, ai, gap_before, METHOD)
            k, ki = pair(
                kept, (((start // CHUNK + s + part) * states + n) * width + d)[None, :], on_d[None, :], ACC
            )
            begun = tl.where((row > 0)[:, None], (q * p - qi * pi) * drive_before, k)
            beguni = tl.where((row > 0)[:, None], (q * pi + qi * p) * drive_before, ki)
            _, _, x, xi = tl.associative_scan((f, fi, begun, beguni), 0, combine_wide)
            x_now = e * x - ei * xi + (gain * b - gaini * bi) * drive
            xi_now = e * xi + ei * x + (gain * bi + gaini * b) * drive
            # lambda_t = conj(C_t) g_t + conj(a_bar_{t+1}) lambda_{t+1}
            place_carry = ((s * states + n) * width + d)[None, :]
            last = ((t + 1 == stop) | (row == CHUNK - 1))[:, None]
            arriving, arrivingi = pair(carry, place_carry, on_d[None, :], ACC)
            f, fi, _, _ = factors_wide(a, ai, gap_after, METHOD)
            lam = tl.where(on, c * g + tl.where(last, arriving, 0.0), 0.0)
            lami = tl.where(on, tl.where(last, arrivingi, 0.0) - ci * g, 0.0)
            _, _, lam, lami = tl.associative_scan((f, -fi, lam, lami), 0, combine_wide, reverse=True)
            out = tl.where((row == 0)[:, None], e * lam + ei * lami, 0.0)
            outi = tl.where((row == 0)[:, None], e * lami - ei * lam, 0.0)
            put(carry, place_carry, tl.sum(out, 0)[None, :], tl.sum(outi, 0)[None, :], on_d[None, :])
            h, hi, v1, v1i, v2, v2i = slopes_wide(a, ai, gap, e, ei, METHOD)
            # conj(B) lambda, and w = conj(B) lambda u
            m, mi = b * lam + bi * lami, b * lami - bi * lam
            w, wi = m * drive, mi * drive
            r, ri = lam * x + lami * xi, lami * x - lam * xi
            z, zi = h * r + hi * ri, h * ri - hi * r
            sum_u += m * gain + mi * gaini
            sum_dt += a * z + ai * zi + v1 * w + v1i * wi
            ga = tl.where(on, gap * z + v2 * w + v2i * wi, 0.0)
            gai = tl.where(on, gap * zi + v2 * wi - v2i * w, 0.0)
            add(grad_A, place_carry, tl.sum(ga, 0)[None, :], tl.sum(gai, 0)[None, :], on_d[None, :])
            gb = tl.where(on, (gain * lam + gaini * lami) * drive, 0.0)
            gbi = tl.where(on, (gain * lami - gaini * lam) * drive, 0.0)
            gc, gci = tl.where(on, g * x_now, 0.0), tl.where(on, -g * xi_now, 0.0)
            of_part = ((block * steps + t) * states + n)[:, None]
            if B_FIXED:
                add(grad_B, place_carry, tl.sum(gb, 0)[None, :], tl.sum(gbi, 0)[None, :], on_d[None, :])
            else:
                put(grad_B, of_part, tl.sum(gb, 1)[:, None], tl.sum(gbi, 1)[:, None], inside[:, None])
            if C_FIXED:
                add(grad_C, place_carry, tl.sum(gc, 0)[None, :], tl.sum(gci, 0)[None, :], on_d[None, :])
            else:
                put(grad_C, of_part, tl.sum(gc, 1)[:, None], tl.sum(gci, 1)[:, None], inside[:, None])
        tl.store(grad_u + cell, sum_u, on)
        tl.store(grad_dt + cell, sum_dt, on)
        tl.debug_barrier()
