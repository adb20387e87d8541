"""The kernels of `on_triton`: matrix products whose rows are looked up, windows by points or points by tokens.

x is (B L, D), grad (B K, h), M for tokens (h, W D); points and tokens of all rows of the batch count through. A
window's tokens lie behind each other in x, so its slots are loads of whole rows.
"""

import triton
import triton.language as tl


@triton.jit
def points_kernel(
    x,
    weight,
    start,
    inside,
    out,
    length,
    points,
    width,
    outputs,
    total,
    window,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
):
    """Adds to out (B K, h) what the tokens give: a tile (BP, BH)."""
    tiles = tl.cdiv(outputs, BH)
    p = (tl.program_id(0) // tiles).to(tl.int64) * BP + tl.arange(0, BP)
    h = tl.program_id(0) % tiles * BH + tl.arange(0, BH)
    there = p < total
    first = p // points * length + tl.load(start + p, mask=there, other=0)
    place, ok = p[:, None] * outputs + h[None, :], there[:, None] & (h < outputs)[None, :]
    found = tl.load(out + place, mask=ok, other=0.0)
    for j in range(window):
        held = tl.load(inside + p * window + j, mask=there, other=0) != 0
        for low in range(0, width, BD):
            d = low + tl.arange(0, BD)
            some = (d < width)[None, :]
            tile = tl.load(
                x + (first + j)[:, None] * width + d[None, :], mask=held[:, None] & some, other=0.0
            )
            columns = weight + h[:, None] * (window * width) + j * width + d[None, :]
            w = tl.load(columns, mask=(h < outputs)[:, None] & some, other=0.0)
            product = tile.to(DTYPE), tl.trans(w.to(DTYPE))
            found = tl.dot(product[0], product[1], found, input_precision=PRECISION, out_dtype=DTYPE)
    tl.store(out + place, found, mask=ok)


@triton.jit
def tokens_kernel(
    grad,
    weight,
    edges,
    inside,
    grad_x,
    length,
    points,
    width,
    outputs,
    total,
    window,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
):
    """grad_x (B L, D), a tile (BP, BD): for each slot the sum over the run of windows that hold the token there.

    edges (B, W + L) has the first window that starts at token t or later in column t + W - 1.
    """
    tiles = tl.cdiv(width, BD)
    t = (tl.program_id(0) // tiles).to(tl.int64) * BP + tl.arange(0, BP)
    d = tl.program_id(0) % tiles * BD + tl.arange(0, BD)
    there, b = t < total, t // length
    run = edges + b * (length + window) + t % length + window - 1
    found = tl.zeros((BP, BD), DTYPE)
    for j in range(window):
        begin = tl.load(run - j, mask=there, other=0)
        count = tl.load(run - j + 1, mask=there, other=0) - begin
        most = tl.max(count, 0)
        for low in range(0, outputs, BH):
            h = low + tl.arange(0, BH)
            some = (h < outputs)[None, :]
            g = tl.zeros((BP, BH), DTYPE)
            for r in range(most):
                p = b * points + begin + r
                held = tl.load(inside + p * window + j, mask=there & (r < count), other=0) != 0
                row = tl.load(grad + p[:, None] * outputs + h[None, :], mask=held[:, None] & some, other=0.0)
                g += row.to(DTYPE)
            columns = weight + h[:, None] * (window * width) + j * width + d[None, :]
            w = tl.load(columns, mask=(h < outputs)[:, None] & (d < width)[None, :], other=0.0)
            found = tl.dot(g, w.to(DTYPE), found, input_precision=PRECISION, out_dtype=DTYPE)
    place = t[:, None] * width + d[None, :]
    tl.store(grad_x + place, found, mask=there[:, None] & (d < width)[None, :])


@triton.jit
def weight_kernel(
    x,
    grad,
    start,
    inside,
    sums,
    length,
    points,
    width,
    outputs,
    total,
    window,
    share,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
):
    """A share of the points' part of the gradient of the weight, sums (shares, h, W D): a tile (BH, BD) of a slot."""
    across, down = tl.cdiv(width, BD), tl.cdiv(outputs, BH)
    program = tl.program_id(0)
    d = program % across * BD + tl.arange(0, BD)
    h = program // across % down * BH + tl.arange(0, BH)
    j = program // (across * down) % window
    part = (program // (across * down * window)).to(tl.int64)
    found = tl.zeros((BH, BD), DTYPE)
    for low in range(0, share, BP):
        p = part * share + low + tl.arange(0, BP)
        there = p < total
        held = tl.load(inside + p * window + j, mask=there, other=0) != 0
        row = p // points * length + tl.load(start + p, mask=there, other=0) + j
        tile = tl.load(
            x + row[:, None] * width + d[None, :], mask=held[:, None] & (d < width)[None, :], other=0.0
        )
        at = p[:, None] * outputs + h[None, :]
        g = tl.load(grad + at, mask=held[:, None] & (h < outputs)[None, :], other=0.0)
        product = tl.trans(g.to(DTYPE)), tile.to(DTYPE)
        found = tl.dot(product[0], product[1], found, input_precision=PRECISION, out_dtype=DTYPE)
    place = (part * outputs + h)[:, None] * (window * width) + j * width + d[None, :]
    tl.store(sums + place, found, mask=(h < outputs)[:, None] & (d < width)[None, :])
