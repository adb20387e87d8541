"""Triton kernels of the state-space dual, forward; the formulas are those of `on_torch`.

Rows and time are one axis of steps, inner axes contiguous. Chunk k holds the steps from start[k] to stop[k]; behind
them every load gives 0, so that dt = 0 there. Sums s of dt A within a chunk are kept as `high` + `low` of the working
precision, (K, H, Q): differences of both parts, added, are as good as differences of s in double precision. States are
(K, H, P, N).
"""

import triton
import triton.language as tl


@triton.jit
def tile(pointer, rows, row_ok, step, columns, column_ok, DTYPE: tl.constexpr):
    """pointer[rows * step + columns] as DTYPE, 0 outside."""
    at = rows[:, None] * step + columns[None, :]
    return tl.load(pointer + at, mask=row_ok[:, None] & column_ok[None, :], other=0.0).to(DTYPE)


@triton.jit
def state_tile(pointer, base, p, n, width, states):
    """The block (p, n) of a state (P, N) that begins at `base`, 0 outside."""
    ok = (p < width)[:, None] & (n < states)[None, :]
    return tl.load(pointer + base * width * states + p[:, None] * states + n[None, :], mask=ok, other=0.0)


@triton.jit
def silu(z):
    """z sigmoid(z)."""
    return z / (1.0 + tl.exp(-z))


@triton.jit
def decay_tile(high, low, base, Q: tl.constexpr):
    """L_ij = exp(s_i - s_j) for i >= j, else 0."""
    i = tl.arange(0, Q)
    s, rest = tl.load(high + base * Q + i), tl.load(low + base * Q + i)
    difference = (s[:, None] - s[None, :]) + (rest[:, None] - rest[None, :])
    return tl.exp(tl.where(i[:, None] >= i[None, :], difference, -float("inf")))


@triton.jit
def until_end(high, low, base, Q: tl.constexpr):
    """exp(s_Q - s_j)."""
    s, rest = high + base * Q, low + base * Q
    j = tl.arange(0, Q)
    return tl.exp((tl.load(s + Q - 1) - tl.load(s + j)) + (tl.load(rest + Q - 1) - tl.load(rest + j)))


@triton.jit
def sum_decays(
    dt, A, high, low, start, stop, heads, dt_step, Q: tl.constexpr, HEADS: tl.constexpr, DTYPE: tl.constexpr
):
    """`high` and `low` of chunk program_id(0), HEADS heads at a time."""
    k = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    i = tl.arange(0, Q)
    steps, head_ok = tl.load(start + k) + i, h < heads
    gaps = tile(dt, steps, steps < tl.load(stop + k), dt_step, h, head_ok, tl.float64)  # pyright: ignore[reportArgumentType]
    rates = tl.load(A + h, mask=head_ok, other=0.0).to(tl.float64)
    s = tl.cumsum(gaps * rates[None, :], 0)
    rounded = s.to(DTYPE)
    at = (k * heads + h)[None, :] * Q + i[:, None]
    tl.store(high + at, rounded, mask=head_ok[None, :])
    tl.store(low + at, (s - rounded.to(tl.float64)).to(DTYPE), mask=head_ok[None, :])


@triton.jit
def sum_outer(
    x,
    z,
    dt,
    B,
    high,
    low,
    state,
    start,
    stop,
    heads,
    groups,
    width,
    states,
    x_step,
    z_step,
    dt_step,
    B_step,
    Q: tl.constexpr,
    TILE: tl.constexpr,
    ADJOINT: tl.constexpr,
    GATED: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum_j exp(s_Q - s_j) dt_j x_j B_j^T; ADJOINT: sum_i exp(s_i) x_i silu(z_i) B_i^T (the gate if GATED)."""
    kh = tl.program_id(0).to(tl.int64)
    k, h = kh // heads, kh % heads
    i = tl.arange(0, Q)
    p = tl.program_id(1) * TILE + tl.arange(0, TILE)
    n = tl.program_id(2) * TILE + tl.arange(0, TILE)
    steps = tl.load(start + k) + i
    ok = steps < tl.load(stop + k)
    values = tile(x + h * width, steps, ok, x_step, p, p < width, DTYPE)
    if ADJOINT:
        weight = tl.exp(tl.load(high + kh * Q + i))
        if GATED:
            values = values * silu(tile(z + h * width, steps, ok, z_step, p, p < width, DTYPE))
    else:
        gaps = tl.load(dt + steps * dt_step + h, mask=ok, other=0.0).to(DTYPE)
        weight = until_end(high, low, kh, Q) * gaps
    group = h // (heads // groups)
    vectors = tile(B + group * states, steps, ok, B_step, n, n < states, DTYPE)
    total = tl.dot(tl.trans(values * weight[:, None]), vectors, input_precision=PRECISION, out_dtype=DTYPE)
    at = kh * width * states + p[:, None] * states + n[None, :]
    tl.store(state + at, total, mask=(p < width)[:, None] & (n < states)[None, :])


@triton.jit
def pass_states(
    state,
    edge,
    final,
    high,
    offsets,
    heads,
    size,
    Q: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Put in place of each chunk's own sum the state that it starts from (REVERSE: the adjoint of its last state).

    Chunks of a sequence lie from offsets[s] to offsets[s + 1]; `edge` is what the first one gets, `final` what the
    last one hands on, both (S, H, P, N); `size` is P N.
    """
    sh = tl.program_id(0).to(tl.int64)
    s, h = sh // heads, sh % heads
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = at < size
    first, last = tl.load(offsets + s), tl.load(offsets + s + 1)
    carry = tl.load(edge + sh * size + at, mask=ok, other=0.0)
    for c in range(last - first):
        chunk = first + c
        if REVERSE:
            chunk = last - 1 - c
        kh = chunk * heads + h
        inflow = tl.load(state + kh * size + at, mask=ok, other=0.0)
        tl.store(state + kh * size + at, carry, mask=ok)
        carry = tl.exp(tl.load(high + kh * Q + Q - 1)) * carry + inflow
    tl.store(final + sh * size + at, carry, mask=ok)


@triton.jit
def outputs(
    x,
    z,
    dt,
    B,
    C,
    D,
    high,
    low,
    state,
    y,
    start,
    stop,
    heads,
    groups,
    width,
    states,
    x_step,
    z_step,
    dt_step,
    B_step,
    C_step,
    Q: tl.constexpr,
    TILE: tl.constexpr,
    GATED: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(sum_j (C_i . B_j) L_ij dt_j x_j + exp(s_i) S C_i + D x_i) silu(z_i), without the gate if not GATED."""
    kh = tl.program_id(0).to(tl.int64)
    k, h = kh // heads, kh % heads
    group = h // (heads // groups)
    i = tl.arange(0, Q)
    p = tl.program_id(1) * TILE + tl.arange(0, TILE)
    steps = tl.load(start + k) + i
    ok = steps < tl.load(stop + k)
    scores, total = tl.zeros((Q, Q), DTYPE), tl.zeros((Q, TILE), DTYPE)
    for first in range(0, states, TILE):
        n = first + tl.arange(0, TILE)
        ins = tile(B + group * states, steps, ok, B_step, n, n < states, DTYPE)
        outs = tile(C + group * states, steps, ok, C_step, n, n < states, DTYPE)
        entering = state_tile(state, kh, p, n, width, states)
        scores = tl.dot(outs, tl.trans(ins), scores, input_precision=PRECISION, out_dtype=DTYPE)
        total = tl.dot(outs, tl.trans(entering), total, input_precision=PRECISION, out_dtype=DTYPE)
    total = total * tl.exp(tl.load(high + kh * Q + i))[:, None]
    gaps = tl.load(dt + steps * dt_step + h, mask=ok, other=0.0).to(DTYPE)
    mixing = scores * decay_tile(high, low, kh, Q) * gaps[None, :]
    values = tile(x + h * width, steps, ok, x_step, p, p < width, DTYPE)
    total = tl.dot(mixing, values, total, input_precision=PRECISION, out_dtype=DTYPE)
    total += tl.load(D + h * width + p, mask=p < width, other=0.0)[None, :].to(DTYPE) * values
    if GATED:
        total = total * silu(tile(z + h * width, steps, ok, z_step, p, p < width, DTYPE))
    at = (steps * heads + h)[:, None] * width + p[None, :]
    tl.store(y + at, total, mask=ok[:, None] & (p < width)[None, :])
