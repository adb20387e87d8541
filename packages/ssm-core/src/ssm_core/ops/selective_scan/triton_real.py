"""Triton kernels of the selective scan for real A.

A program has one sequence and one block of channels, all of one group. The forward kernel walks through time with the
states (channels, N) in registers and writes them down every CHUNK steps. The backward kernel goes through the chunks
from the last to the first; for each state n it runs a scan over a tile (CHUNK, channels) for the states before each
step, and another one, to the left, for lambda_t = C_t g_t + a_bar_{t+1} lambda_{t+1}. Tiles have no neighbours to ask,
so factors are computed where they are needed from gaps loaded one step earlier or later.
"""

import triton
import triton.language as tl

from ssm_core.ops.selective_scan._triton_steps import combine, factors, slopes


@triton.jit
def place(blocks_per_group, per_group, groups, groups_b, groups_c, BLOCK_D: tl.constexpr):
    """(sequence, block, group of B, group of C, channels, which of them exist) of this program.

    All divisions are made here, in 32 bits: none is moved out of a loop, and one in 64 bits is a call.
    """
    program, blocks = tl.program_id(0), blocks_per_group * groups
    s, block = program // blocks, program % blocks
    group = block // blocks_per_group
    inside = (block % blocks_per_group) * BLOCK_D + tl.arange(0, BLOCK_D)
    d = group.to(tl.int64) * per_group + inside
    return (
        s.to(tl.int64),
        block.to(tl.int64),
        (group % groups_b).to(tl.int64),
        (group % groups_c).to(tl.int64),
        d,
        inside < per_group,
    )


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
    """Fill y and kept; `state` (S, D, N) comes with the initial states and leaves with the final ones."""
    s, _, group_b, group_c, d, on_d = place(blocks_per_group, per_group, groups, groups_b, groups_c, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    on = on_d[:, None] & (n < states)[None, :]
    cell = d[:, None] * states + n[None, :]  # of (D, N)
    a = tl.load(A + cell, on, 0.0).to(ACC)
    x = tl.load(state + s * width * states + cell, on, 0.0).to(ACC)
    if B_FIXED:
        b_fixed = tl.load(B + cell, on, 0.0).to(ACC)
    if C_FIXED:
        c_fixed = tl.load(C + cell, on, 0.0).to(ACC)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    slot = start // CHUNK + s
    for t in range(start, stop):
        if (t - start) % CHUNK == 0:
            at = (slot + (t - start) // CHUNK) * states * width
            tl.store(kept + at + n[None, :] * width + d[:, None], x, on)
        gap = tl.load(dt + t * width + d, on_d, 0.0).to(ACC)[:, None]
        drive = tl.load(u + t * width + d, on_d, 0.0).to(ACC)[:, None]
        if B_FIXED:
            b = b_fixed
        else:
            b = tl.load(B + (t * groups_b + group_b) * states + n, n < states, 0.0).to(ACC)[None, :]
        if C_FIXED:
            c = c_fixed
        else:
            c = tl.load(C + (t * groups_c + group_c) * states + n, n < states, 0.0).to(ACC)[None, :]
        a_bar, gain = factors(a, gap, METHOD)
        x = a_bar * x + gain * b * drive
        tl.store(y + t * width + d, tl.sum(tl.where(on, c * x, 0.0), 1), on_d)
    tl.store(state + s * width * states + cell, x, on)


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
    """Fill the gradients; `carry` (S, N, D) comes with that of the final states and leaves with the initial ones'."""
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
        g = tl.load(grad_y + cell, on, 0.0).to(ACC)
        sum_u, sum_dt = g * 0.0, g * 0.0
        for n in range(states):
            a = tl.load(A + d * states + n, on_d, 0.0).to(ACC)[None, :]
            if B_FIXED:
                b = tl.load(B + d * states + n, on_d, 0.0).to(ACC)[None, :]
                b_before = b
            else:
                of_b = B + (t * groups_b + group_b) * states + n
                b = tl.load(of_b, inside, 0.0).to(ACC)[:, None]
                b_before = tl.load(of_b - groups_b * states, inside & (row > 0), 0.0).to(ACC)[:, None]
            if C_FIXED:
                c = tl.load(C + d * states + n, on_d, 0.0).to(ACC)[None, :]
            else:
                of_c = C + (t * groups_c + group_c) * states + n
                c = tl.load(of_c, inside, 0.0).to(ACC)[:, None]
            a_bar, gain = factors(a, gap, METHOD)
            # The state before each step: the one kept, then what the steps before it make of it.
            a_before, gain_before = factors(a, gap_before, METHOD)
            first = tl.load(kept + ((start // CHUNK + s + part) * states + n) * width + d, on_d, 0.0).to(ACC)
            begun = tl.where((row > 0)[:, None], gain_before * b_before * drive_before, first[None, :])
            _, x_before = tl.associative_scan((a_before, begun), 0, combine)
            x = a_bar * x_before + gain * b * drive
            # lambda, with what comes from the chunks to the right in its last row that exists.
            place_carry = carry + (s * states + n) * width + d
            last = (t + 1 == stop) | (row == CHUNK - 1)
            arriving = tl.where(last[:, None], tl.load(place_carry, on_d, 0.0).to(ACC)[None, :], 0.0)
            a_after, _ = factors(a, gap_after, METHOD)
            _, lam = tl.associative_scan(
                (a_after, tl.where(on, c * g + arriving, 0.0)), 0, combine, reverse=True
            )
            leaving = tl.sum(tl.where((row == 0)[:, None], a_bar * lam, 0.0), 0)
            tl.store(place_carry, leaving, on_d)
            e, e_gain, v = slopes(a, gap, a_bar, METHOD)
            lam_b = lam * b
            w = lam_b * drive
            eq = e * lam * x_before
            sum_u += lam_b * gain
            sum_dt += a * eq + e_gain * w
            of_a = grad_A + (s * states + n) * width + d
            added = tl.sum(tl.where(on, gap * eq + v * w, 0.0), 0)
            tl.store(of_a, tl.load(of_a, on_d, 0.0) + added, on_d)
            product_b, product_c = tl.where(on, lam * gain * drive, 0.0), tl.where(on, g * x, 0.0)
            if B_FIXED:
                of_b = grad_B + (s * states + n) * width + d
                tl.store(of_b, tl.load(of_b, on_d, 0.0) + tl.sum(product_b, 0), on_d)
            else:
                tl.store(grad_B + (block * steps + t) * states + n, tl.sum(product_b, 1), inside)
            if C_FIXED:
                of_c = grad_C + (s * states + n) * width + d
                tl.store(of_c, tl.load(of_c, on_d, 0.0) + tl.sum(product_c, 0), on_d)
            else:
                tl.store(grad_C + (block * steps + t) * states + n, tl.sum(product_c, 1), inside)
        tl.store(grad_u + cell, sum_u, on)
        tl.store(grad_dt + cell, sum_dt, on)
        # Carries and sums of this chunk must be written before the next chunk reads them, whoever wrote them.
        tl.debug_barrier()


# ruff: noqa: SIM108 -- branches of constants, of which the kernel has one
