"""The kernels of `on_triton`: a program slides the filter over a few steps of BLOCK channels held in registers.

A row of x is loaded once for all W taps that read it, so a program loads W - 1 rows beside those it is there for, and
memory is crossed once. The loops over rows and taps are unrolled: rows are tuples of vectors, indexed by constants.

What lies before a sequence is 0. In a pack the steps of a program may belong to several sequences, so there each tap
asks whether it reaches back beyond its own: n is the number of steps of its sequence before it. Where there are
initial states (HAS_STATE), the first W - 1 steps of a sequence are left to the caller: their outputs and the gradients
that come through them are 0 here.

KIND says what follows the convolution z: 0 nothing, 1 z sigmoid(z), 2 gate_scale x sigmoid(z).
"""

# ruff: noqa: RUF005 -- inside kernels, tuples grow by addition only.

import triton
import triton.language as tl

from ssm_core.opkit.triton_math import sigmoid


@triton.jit
def _if(columns, channels, condition):
    """The mask of a row: which columns there are, none unless a scalar condition holds."""
    return columns < tl.where(condition, channels, 0)


@triton.jit
def _place(sequence, offsets, t, length, PACKED: tl.constexpr):
    """(steps of its sequence before step t, the end of the sequence)."""
    n, stop = t, length
    if PACKED:
        s = tl.load(sequence + t, mask=t < length, other=0)
        n = t - tl.load(offsets + s)
        stop = tl.load(offsets + s + 1)
    return n, stop


@triton.jit
def _rows(x, first, length, channels, columns, COUNT: tl.constexpr, ACC: tl.constexpr):
    """The rows of COUNT steps from `first` on, 0 outside the sequence."""
    rows = ()
    for r in tl.static_range(COUNT):
        t = first + r
        mask = _if(columns, channels, (t >= 0) & (t < length))
        row = tl.load(x + t.to(tl.int64) * channels + columns, mask=mask, other=0.0)
        rows = rows + (row.to(ACC),)
    return rows


@triton.jit
def _weights(weight, columns, channels, W: tl.constexpr, ACC: tl.constexpr):
    taps = ()
    for k in tl.static_range(W):
        tap = tl.load(weight + columns * W + k, mask=columns < channels, other=0.0)
        taps = taps + (tap.to(ACC),)
    return taps


@triton.jit
def _window(rows, at: tl.constexpr, n, W: tl.constexpr, PACKED: tl.constexpr):
    """The W inputs up to rows[at + W - 1], which has n steps of its sequence before it."""
    window = ()
    for k in tl.static_range(W):
        row = rows[at + k]
        if PACKED:
            row = tl.where(n >= W - 1 - k, row, 0.0)
        window = window + (row,)
    return window


@triton.jit
def _filter(window, taps, shift, W: tl.constexpr):
    z = shift
    for k in tl.static_range(W):
        z += taps[k] * window[k]
    return z


@triton.jit
def activate(z, x, KIND: tl.constexpr, GATE_SCALE: tl.constexpr):
    """What follows the convolution."""
    y = z
    if KIND == 1:
        y = z * sigmoid(z)
    elif KIND == 2:
        y = GATE_SCALE * x * sigmoid(z)
    return y


@triton.jit
def _activate_backward(z, x, grad, KIND: tl.constexpr, GATE_SCALE: tl.constexpr):
    """(gradient of z, gradient of x past the convolution)."""
    grad_z, direct = grad, tl.zeros_like(grad)
    if KIND == 1:
        gate = sigmoid(z)
        grad_z = grad * gate * (1.0 + z * (1.0 - gate))
    elif KIND == 2:
        gate = sigmoid(z)
        direct = GATE_SCALE * grad * gate
        grad_z = direct * x * (1.0 - gate)
    return grad_z, direct


@triton.jit
def forward_kernel(
    x,
    weight,
    bias,
    sequence,
    offsets,
    y,
    length,
    channels,
    W: tl.constexpr,
    KIND: tl.constexpr,
    GATE_SCALE: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """y (B,L,H) from x (B,L,H), weight (H,W) and bias (H,): a program for STEPS steps of a row."""
    chunks = tl.cdiv(length, STEPS)
    b, first = (tl.program_id(0) // chunks).to(tl.int64), (tl.program_id(0) % chunks) * STEPS
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x += b * length * channels
    y += b * length * channels
    taps = _weights(weight, columns, channels, W, ACC)
    shift = tl.load(bias + columns, mask=columns < channels, other=0.0).to(ACC)
    rows = _rows(x, first - (W - 1), length, channels, columns, STEPS + W - 1, ACC)
    for r in tl.static_range(STEPS):
        t = first + r
        n, _ = _place(sequence, offsets, t, length, PACKED)
        z = _filter(_window(rows, r, n, W, PACKED), taps, shift, W)
        out = activate(z, rows[r + W - 1], KIND, GATE_SCALE)
        if HAS_STATE:
            out = tl.where(n >= W - 1, out, 0.0)
        place = y + t.to(tl.int64) * channels + columns
        tl.store(place, out.to(y.dtype.element_ty), mask=_if(columns, channels, t < length))


@triton.jit
def backward_kernel(
    x,
    weight,
    bias,
    sequence,
    offsets,
    grad_y,
    grad_x,
    sums,
    length,
    channels,
    pieces,
    W: tl.constexpr,
    KIND: tl.constexpr,
    GATE_SCALE: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """grad_x (B,L,H), and a program's share of the gradients of weight and bias: sums (programs, W+1, H).

    A program does `pieces` times STEPS steps of a row. The gradients of the W - 1 convolutions after a piece are
    computed there as well as in the next one, so that programs owe each other nothing.
    """
    chunks = tl.cdiv(length, STEPS * pieces)
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // chunks, (tl.program_id(0) % chunks) * STEPS * pieces
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x += b * length * channels
    grad_y += b * length * channels
    grad_x += b * length * channels
    taps = _weights(weight, columns, channels, W, ACC)
    shift = tl.load(bias + columns, mask=columns < channels, other=0.0).to(ACC)
    totals = ()
    for _ in tl.static_range(W + 1):
        totals = totals + (tl.zeros([BLOCK], ACC),)
    for piece in range(pieces):
        totals = _backward_piece(
            x,
            taps,
            shift,
            sequence,
            offsets,
            grad_y,
            grad_x,
            totals,
            start + piece * STEPS,
            length,
            channels,
            columns,
            W,
            KIND,
            GATE_SCALE,
            PACKED,
            HAS_STATE,
            STEPS,
            ACC,
        )
    sums += pid * (W + 1) * channels
    for k in tl.static_range(W + 1):
        tl.store(sums + k * channels + columns, totals[k], mask=columns < channels)


@triton.jit
def _backward_piece(
    x,
    taps,
    shift,
    sequence,
    offsets,
    grad_y,
    grad_x,
    totals,
    first,
    length,
    channels,
    columns,
    W: tl.constexpr,
    KIND: tl.constexpr,
    GATE_SCALE: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr,
    STEPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """STEPS steps of grad_x; returns the totals with what these steps add to them."""
    rows = _rows(x, first - (W - 1), length, channels, columns, STEPS + 2 * (W - 1), ACC)
    grads = _rows(grad_y, first, length, channels, columns, STEPS + W - 1, ACC)
    grads_z, directs = (), ()
    for r in tl.static_range(STEPS + W - 1):
        n, _ = _place(sequence, offsets, first + r, length, PACKED)
        window = _window(rows, r, n, W, PACKED)
        z = _filter(window, taps, shift, W)
        grad = grads[r]
        if HAS_STATE:
            grad = tl.where(n >= W - 1, grad, 0.0)
        grad_z, direct = _activate_backward(z, rows[r + W - 1], grad, KIND, GATE_SCALE)
        grads_z, directs = grads_z + (grad_z,), directs + (direct,)
        if r < STEPS:
            added = ()
            for k in tl.static_range(W):
                added = added + (totals[k] + grad_z * window[k],)
            totals = added + (totals[W] + grad_z,)
    for r in tl.static_range(STEPS):
        t = first + r
        _, stop = _place(sequence, offsets, t, length, PACKED)
        grad = directs[r]
        for lag in tl.static_range(W):
            later = grads_z[r + lag]
            if PACKED:
                later = tl.where(t + lag < stop, later, 0.0)
            grad += taps[W - 1 - lag] * later
        place = grad_x + t.to(tl.int64) * channels + columns
        tl.store(place, grad.to(grad_x.dtype.element_ty), mask=_if(columns, channels, t < length))
    return totals
