"""One step of the causal convolution as one kernel: y and the new state from one reading of everything.

A program has a row and a block of channels. The last W inputs, those held and the present one, are both what is summed
and, moved by one, the new state. It loads as many of them as registers hold, all W of most filters, before it stores
any, so that it waits for memory once. Operands are read as they lie: `x_b` is the stride of x along the batch, `_h`
along channels, `_w` along taps.
"""

# ruff: noqa: RUF005 -- inside kernels, tuples grow by addition only.

import triton
import triton.language as tl

from ssm_core.ops.causal_conv1d.triton_kernels import activate


@triton.jit
def update_kernel(
    x,
    state,
    weight,
    bias,
    y,
    after,
    channels,
    blocks,
    x_b,
    x_h,
    state_b,
    state_w,
    state_h,
    weight_h,
    weight_w,
    bias_h,
    W: tl.constexpr,
    KIND: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """Fill y (B, H) and the state `after` the step (B, W-1, H)."""
    b, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    columns = block * BLOCK + tl.arange(0, BLOCK)
    on, h = columns < channels, columns.to(tl.int64)
    now = tl.load(x + b * x_b + h * x_h, on, 0.0).to(ACC)
    z = tl.zeros([BLOCK], ACC)
    if HAS_BIAS:
        z += tl.load(bias + h * bias_h, on, 0.0).to(ACC)
    state += b * state_b
    after += b * (W - 1) * channels
    for first in range(0, W, ROWS):  # a mask is a bound on h: the interpreter makes none of a scalar
        held, taps = (), ()
        for r in tl.static_range(ROWS):
            k = tl.full((), r, tl.int64) + first
            row = tl.load(state + k * state_w + h * state_h, h < tl.where(k < W - 1, channels, 0), 0.0).to(
                ACC
            )
            held = held + (tl.where(k == W - 1, now, row),)
            tap = tl.load(weight + k * weight_w + h * weight_h, h < tl.where(k < W, channels, 0), 0.0).to(ACC)
            taps = taps + (tap,)
        for r in tl.static_range(ROWS):
            k = tl.full((), r, tl.int64) + first
            z += taps[r] * held[r]
            tl.store(after + (k - 1) * channels + h, held[r], h < tl.where((k > 0) & (k < W), channels, 0))
    out = activate(z, now, KIND, 1.0)
    tl.store(y + b * channels + h, out.to(y.dtype.element_ty), on)
