"""Triton kernels of the state-space dual, backward; the formulas are those of `on_torch`, the layout is forward's.

`entering` holds the state S that each chunk starts from, `leaving` the adjoint Z of the one it ends with,
(K, H, P, N).
"""

import triton
import triton.language as tl

from ssm_core.ops.ssd_scan._triton_forward import decay_tile, silu, state_tile, tile, until_end


@triton.jit
def input_gradients(
    x,
    z,
    dt,
    A,
    B,
    C,
    D,
    grad_y,
    high,
    low,
    entering,
    leaving,
    grad_x,
    grad_z,
    grad_dt,
    grad_A,
    grad_D,
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
    grad_step,
    Q: tl.constexpr,
    TILE: tl.constexpr,
    GATED: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of x, z and dt of one chunk and head, and its share of those of A (K, H) and D (K, H, P)."""
    kh = tl.program_id(0).to(tl.int64)
    k, h = kh // heads, kh % heads
    group = h // (heads // groups)
    i = tl.arange(0, Q)
    steps = tl.load(start + k) + i
    ok = steps < tl.load(stop + k)
    gaps = tl.load(dt + steps * dt_step + h, mask=ok, other=0.0).to(DTYPE)
    scores = tl.zeros((Q, Q), DTYPE)
    for first in range(0, states, TILE):
        n = first + tl.arange(0, TILE)
        ins = tile(B + group * states, steps, ok, B_step, n, n < states, DTYPE)
        outs = tile(C + group * states, steps, ok, C_step, n, n < states, DTYPE)
        scores = tl.dot(outs, tl.trans(ins), scores, input_precision=PRECISION, out_dtype=DTYPE)
    mixing = scores * decay_tile(high, low, kh, Q)
    since, until = tl.exp(tl.load(high + kh * Q + i)), until_end(high, low, kh, Q)

    pairs = tl.zeros((Q, Q), DTYPE)  # g_i . x_j
    ahead, behind = tl.zeros((Q,), DTYPE), tl.zeros((Q,), DTYPE)  # g . exp(s) S C; exp(s_Q - s) x . Z B
    direct, across = tl.zeros((Q,), DTYPE), tl.zeros((TILE,), DTYPE)  # x . gradient of dt x; Z . S
    for begin in range(0, width, TILE):
        p = begin + tl.arange(0, TILE)
        p_ok = p < width
        values = tile(x + h * width, steps, ok, x_step, p, p_ok, DTYPE)
        g = tile(grad_y + h * width, steps, ok, grad_step, p, p_ok, DTYPE)
        skip = tl.load(D + h * width + p, mask=p_ok, other=0.0)[None, :].to(DTYPE)
        from_state, to_state = tl.zeros((Q, TILE), DTYPE), tl.zeros((Q, TILE), DTYPE)
        for first in range(0, states, TILE):
            n = first + tl.arange(0, TILE)
            ins = tile(B + group * states, steps, ok, B_step, n, n < states, DTYPE)
            outs = tile(C + group * states, steps, ok, C_step, n, n < states, DTYPE)
            S = state_tile(entering, kh, p, n, width, states)
            Z = state_tile(leaving, kh, p, n, width, states)
            from_state = tl.dot(outs, tl.trans(S), from_state, input_precision=PRECISION, out_dtype=DTYPE)
            to_state = tl.dot(ins, tl.trans(Z), to_state, input_precision=PRECISION, out_dtype=DTYPE)
            across += tl.sum(S * Z, 1)
        from_state, to_state = from_state * since[:, None], to_state * until[:, None]
        at, here = (steps * heads + h)[:, None] * width + p[None, :], ok[:, None] & p_ok[None, :]
        if GATED:
            gate = tile(z + h * width, steps, ok, z_step, p, p_ok, DTYPE)
            out = from_state + skip * values
            out = tl.dot(mixing * gaps[None, :], values, out, input_precision=PRECISION, out_dtype=DTYPE)
            open_ = 1.0 / (1.0 + tl.exp(-gate))
            tl.store(grad_z + at, g * out * (open_ + gate * open_ * (1.0 - open_)), mask=here)
            g = g * silu(gate)
        pairs = tl.dot(g, tl.trans(values), pairs, input_precision=PRECISION, out_dtype=DTYPE)
        ahead += tl.sum(g * from_state, 1)
        behind += tl.sum(values * to_state, 1)
        inflow = tl.dot(tl.trans(mixing), g, to_state, input_precision=PRECISION, out_dtype=DTYPE)
        direct += tl.sum(values * inflow, 1)
        tl.store(grad_x + at, gaps[:, None] * inflow + skip * g, mask=here)
        tl.store(grad_D + kh * width + p, tl.sum(g * values, 0), mask=p_ok)

    earlier = i[:, None] < i[None, :]  # (j, t): j < t
    pairs = pairs * mixing * gaps[None, :]
    spanned = tl.dot(pairs, earlier.to(DTYPE), input_precision=PRECISION, out_dtype=DTYPE) + ahead[:, None]
    grad_a = tl.sum(tl.where(i[:, None] >= i[None, :], spanned, 0.0), 0)
    grad_a += tl.sum(tl.where(earlier, (gaps * behind)[:, None], 0.0), 0)
    grad_a += tl.sum(across, 0) * tl.exp(tl.load(high + kh * Q + Q - 1))
    rate = tl.load(A + h).to(DTYPE)
    tl.store(grad_dt + steps * heads + h, direct + rate * grad_a, mask=ok)
    tl.store(grad_A + kh, tl.sum(grad_a * gaps, 0))


@triton.jit
def projection_gradients(
    x,
    z,
    dt,
    B,
    C,
    grad_y,
    high,
    low,
    entering,
    leaving,
    grad_B,
    grad_C,
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
    grad_step,
    splits,
    share,
    total_steps,
    Q: tl.constexpr,
    TILE: tl.constexpr,
    GATED: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What `share` heads of a group add to the gradients of its B and C in one chunk: (splits, steps, G, N)."""
    program = tl.program_id(0).to(tl.int64)
    split, group, k = program % splits, program // splits % groups, program // splits // groups
    i = tl.arange(0, Q)
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)
    n_ok = n < states
    steps = tl.load(start + k) + i
    ok = steps < tl.load(stop + k)
    in_group = heads // groups
    grad_ins, grad_outs = tl.zeros((Q, TILE), DTYPE), tl.zeros((Q, TILE), DTYPE)
    scores_bar = tl.zeros((Q, Q), DTYPE)
    for head in range(split * share, tl.minimum((split + 1) * share, in_group)):
        h = group * in_group + head
        kh = k * heads + h
        gaps = tl.load(dt + steps * dt_step + h, mask=ok, other=0.0).to(DTYPE)
        since = tl.exp(tl.load(high + kh * Q + i))
        until = until_end(high, low, kh, Q) * gaps
        pairs = tl.zeros((Q, Q), DTYPE)
        for begin in range(0, width, TILE):
            p = begin + tl.arange(0, TILE)
            p_ok = p < width
            values = tile(x + h * width, steps, ok, x_step, p, p_ok, DTYPE)
            g = tile(grad_y + h * width, steps, ok, grad_step, p, p_ok, DTYPE)
            if GATED:
                g = g * silu(tile(z + h * width, steps, ok, z_step, p, p_ok, DTYPE))
            S = state_tile(entering, kh, p, n, width, states)
            Z = state_tile(leaving, kh, p, n, width, states)
            pairs = tl.dot(g, tl.trans(values), pairs, input_precision=PRECISION, out_dtype=DTYPE)
            grad_outs = tl.dot(g * since[:, None], S, grad_outs, input_precision=PRECISION, out_dtype=DTYPE)
            grad_ins = tl.dot(
                values * until[:, None], Z, grad_ins, input_precision=PRECISION, out_dtype=DTYPE
            )
        scores_bar += pairs * decay_tile(high, low, kh, Q) * gaps[None, :]
    ins = tile(B + group * states, steps, ok, B_step, n, n_ok, DTYPE)
    outs = tile(C + group * states, steps, ok, C_step, n, n_ok, DTYPE)
    grad_outs = tl.dot(scores_bar, ins, grad_outs, input_precision=PRECISION, out_dtype=DTYPE)
    grad_ins = tl.dot(tl.trans(scores_bar), outs, grad_ins, input_precision=PRECISION, out_dtype=DTYPE)
    at = ((split * total_steps + steps) * groups + group)[:, None] * states + n[None, :]
    tl.store(grad_B + at, grad_ins, mask=ok[:, None] & n_ok[None, :])
    tl.store(grad_C + at, grad_outs, mask=ok[:, None] & n_ok[None, :])
