"""One step of the selective scan as one kernel.

A program has one row and a block of channels, with all their states: it reads every number once and writes the new
states and the outputs. Complex numbers are pairs of real ones, y = 2 Re sum_n C x then. Operands are read as they lie,
which is what the strides are for: `x_b` is that of x along the batch, `_d` along channels, `_n` along states, `_g`
along groups of channels. A stride of complex numbers counts these.
"""

import triton
import triton.language as tl

from ssm_core.opkit.triton_math import sigmoid, softplus
from ssm_core.ops.selective_scan._triton_steps import factors, factors_wide
from ssm_core.ops.selective_scan.triton_wide import pair, put


@triton.jit
def _numbers(pointer, cell, on, WIDE: tl.constexpr, ACC: tl.constexpr):
    """(real, imaginary part) of what stands at `cell`, 0 where not on; of real numbers the number twice."""
    if WIDE:
        return pair(pointer, cell, on, ACC)
    else:
        real = tl.load(pointer + cell, on, 0.0).to(ACC)
        return real, real


@triton.jit
def _weights(
    pointer,
    d,
    n,
    width,
    states,
    per_group,
    by_group,
    by_state,
    SHARED: tl.constexpr,
    WIDE: tl.constexpr,
    ACC: tl.constexpr,
):
    """B or C of a row: (channels, states), or (1, states) where all channels have the same."""
    cell, on = (n.to(tl.int64) * by_state)[None, :], (n < states)[None, :]
    if SHARED:
        return _numbers(pointer, cell, on, WIDE, ACC)
    else:
        group = (d // per_group).to(tl.int64)[:, None]
        return _numbers(pointer, group * by_group + cell, on & (d < width)[:, None], WIDE, ACC)


@triton.jit
def _gap(dt, dt_bias, d, on, by_d, bias_d, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """The gap of each channel."""
    gap = tl.load(dt + d * by_d, on, 0.0).to(ACC)
    if HAS_BIAS:
        gap += tl.load(dt_bias + d * bias_d, on, 0.0).to(ACC)
    if SOFTPLUS:
        gap = softplus(gap)
    return gap


@triton.jit
def update_kernel(
    x,
    state,
    dt,
    A,
    B,
    C,
    D,
    z,
    dt_bias,
    y,
    after,
    width,
    states,
    blocks,
    per_group_b,
    per_group_c,
    x_b,
    x_d,
    state_b,
    state_d,
    state_n,
    dt_b,
    dt_d,
    A_d,
    A_n,
    B_b,
    B_g,
    B_n,
    C_b,
    C_g,
    C_n,
    D_d,
    z_b,
    z_d,
    bias_d,
    B_SHARED: tl.constexpr,
    C_SHARED: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    METHOD: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACC: tl.constexpr,
):
    """Fill y (B, D) and the state `after` the step (B, D, N)."""
    b, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    d, n = block * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    on_d = d < width
    on = on_d[:, None] & (n < states)[None, :]
    row, line = d.to(tl.int64), n.to(tl.int64)[None, :]
    drive = tl.load(x + b * x_b + row * x_d, on_d, 0.0).to(ACC)
    gap = _gap(dt + b * dt_b, dt_bias, row, on_d, dt_d, bias_d, HAS_BIAS, SOFTPLUS, ACC)[:, None]
    u = drive[:, None]
    a, ai = _numbers(A, row[:, None] * A_d + line * A_n, on, WIDE, ACC)
    s, si = _numbers(state, b * state_b + row[:, None] * state_d + line * state_n, on, WIDE, ACC)
    part: tl.constexpr = 2 if WIDE else 1
    p, pi = _weights(B + part * b * B_b, d, n, width, states, per_group_b, B_g, B_n, B_SHARED, WIDE, ACC)
    q, qi = _weights(C + part * b * C_b, d, n, width, states, per_group_c, C_g, C_n, C_SHARED, WIDE, ACC)
    cell = (b * width + row)[:, None] * states + line
    if WIDE:
        e, ei, gain, gaini = factors_wide(a, ai, gap, METHOD)
        new = e * s - ei * si + (gain * p - gaini * pi) * u
        newi = e * si + ei * s + (gain * pi + gaini * p) * u
        put(after, cell, new, newi, on)
        out = 2.0 * tl.sum(tl.where(on, q * new - qi * newi, 0.0), 1)
    else:
        a_bar, gain = factors(a, gap, METHOD)
        new = a_bar * s + gain * p * u
        tl.store(after + cell, new, on)
        out = tl.sum(tl.where(on, q * new, 0.0), 1)
    if HAS_D:
        out += tl.load(D + row * D_d, on_d, 0.0).to(ACC) * drive
    if HAS_Z:
        gate = tl.load(z + b * z_b + row * z_d, on_d, 0.0).to(ACC)
        out *= gate * sigmoid(gate)
    tl.store(y + b * width + row, out.to(y.dtype.element_ty), on_d)
