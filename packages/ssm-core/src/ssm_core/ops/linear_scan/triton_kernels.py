"""The kernels of `on_triton`: scans of tiles [BT steps, BW columns], the state carried from tile to tile in registers.

A program walks one chunk of one row of the batch, for BW columns, in scan order: step i is row t = i of memory, or
t = L - 1 - i where `direction` is -1. Within a tile the pairs (a_t, b_t) are joined by an associative scan,

    (a, b) then (c, d) is (c a, c b + d),

which leaves the products P_t and the states H_t from a zero state; the state is H_t + P_t carry. Nothing is divided
and no logarithm taken, so a may be 0. Steps beyond the end have a = 1, b = 0 and leave the carry as it is.

The adjoint of the scan is the scan of conj(a_{t+1}) in the other direction: with `adjoint` = 1 a step takes the decay
of the step before it in scan order, conjugated, and 1 at the first step, where the final state's gradient comes in.

What a kernel does is told by integers, read when it runs: a branch that all threads take alike costs next to nothing,
and few configurations have to be compiled.

Complex numbers are pairs of columns. Tiles hold real and imaginary parts apart; for real ones every function hands the
imaginary part through unused, and the compiler drops it.
"""

import triton
import triton.language as tl


@triton.jit
def _join(a, b, c, d):
    return c * a, c * b + d


@triton.jit
def _join_complex(a_re, a_im, b_re, b_im, c_re, c_im, d_re, d_im):
    return (
        c_re * a_re - c_im * a_im,
        c_re * a_im + c_im * a_re,
        c_re * b_re - c_im * b_im + d_re,
        c_re * b_im + c_im * b_re + d_im,
    )


@triton.jit
def _scan(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """Products and states down a tile."""
    if COMPLEX:
        p_re, p_im, h_re, h_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, _join_complex)
    else:
        p_re, h_re = tl.associative_scan((a_re, b_re), 0, _join)
        p_im, h_im = a_im, b_im
    return p_re, p_im, h_re, h_im


@triton.jit
def _times(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    if COMPLEX:
        re, im = a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re
    else:
        re, im = a_re * b_re, a_im
    return re, im


@triton.jit
def _load(ptr, offset, mask, COMPLEX: tl.constexpr):
    """(Re, Im) of a tile, loaded as it lies: pairs of neighbouring columns if complex."""
    x = tl.load(ptr + offset, mask=mask, other=0.0)
    if COMPLEX:
        re, im = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
    else:
        re, im = x, x
    return re, im


@triton.jit
def _store(ptr, offset, mask, re, im, COMPLEX: tl.constexpr):
    tl.store(ptr + offset, tl.interleave(re, im) if COMPLEX else re, mask=mask)


@triton.jit
def _last(re, im, BT: tl.constexpr, COMPLEX: tl.constexpr):
    """The last row [1, BW] of a tile."""
    chosen = tl.arange(0, BT)[:, None] == BT - 1
    row_re = tl.sum(tl.where(chosen, re, 0.0), 0, keep_dims=True)
    row_im = tl.sum(tl.where(chosen, im, 0.0), 0, keep_dims=True) if COMPLEX else row_re
    return row_re, row_im


@triton.jit
def _place(length, chunk, width, BW: tl.constexpr):
    """(batch row, first step, row of the chunk in tensors of one row per chunk, columns [1, BW]) of this program."""
    blocks = tl.cdiv(width, BW)
    pid = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(length, chunk)
    row = pid // blocks
    col = (pid % blocks) * BW + tl.arange(0, BW)[None, :]
    return row // chunks, (row % chunks) * chunk, row, col


@triton.jit
def _operands(
    a_ptr,  # at the decays of the tile's first step
    b_ptr,  # at the inputs of the tile's first step
    entry_ptr,  # at the tile's first step
    entry_state_ptr,
    start,
    left,
    r,
    col,
    width,
    direction,
    varying,
    packed,
    adjoint,
    COMPLEX: tl.constexpr,
):
    """Decays and inputs (a_re, a_im, b_re, b_im) of the tile's steps r [BT, 1], those from `left` on beyond the end."""
    inside, have_a = r < left, (r < left) & (start + r >= adjoint)
    row = (direction * r).to(tl.int64) * width
    a_re, a_im = _load(a_ptr, varying * row + col, have_a & (col < width), COMPLEX)
    b_re, b_im = _load(b_ptr, row + col, inside & (col < width), COMPLEX)
    a_re, a_im = tl.where(have_a, a_re, 1.0), a_im * (1 - 2 * adjoint)
    if packed > 0:
        # Where a sequence is entered, its own initial state takes the place of the state before.
        sequence = tl.load(entry_ptr + direction * r, mask=inside, other=-1).to(tl.int64)
        enters = sequence >= 0
        x_re, x_im = _load(entry_state_ptr, sequence * width + col, enters & (col < width), COMPLEX)
        if adjoint == 0:
            x_re, x_im = _times(a_re, a_im, x_re, x_im, COMPLEX)
        a_re, b_re = tl.where(enters, 0.0, a_re), tl.where(enters, b_re + x_re, b_re)
        if COMPLEX:
            a_im, b_im = tl.where(enters, 0.0, a_im), tl.where(enters, b_im + x_im, b_im)
    return a_re, a_im, b_re, b_im


@triton.jit(do_not_specialize=["length", "chunk", "direction", "varying", "packed", "adjoint", "summary"])
def scan_kernel(
    a_ptr,  # (B, L, W), or (W,) if not `varying`
    b_ptr,  # (B, L, W)
    start_ptr,  # (B chunks, W): the state before each chunk; not used for a summary
    entry_ptr,  # (L,): the sequence that is entered at a step, else -1; read if `packed`
    entry_state_ptr,  # (S, W): initial states of the sequences; read if `packed`
    h_ptr,  # (B, L, W), or (B chunks, W) for a summary: the chunks' states from a zero state
    product_ptr,  # (B chunks, W): the chunks' products of decays; written for a summary
    length,
    chunk,
    width,
    direction,
    varying,
    packed,
    adjoint,
    summary,
    COMPLEX: tl.constexpr,
    BT: tl.constexpr,
    BW: tl.constexpr,
):
    """States of every step, or a summary of each chunk: what a state before it becomes after it."""
    batch, first, row, col = _place(length, chunk, width, BW)
    r = tl.arange(0, BT)[:, None]
    state_re, state_im = _load(start_ptr, row * width + col, col < width, COMPLEX)
    product_re, product_im = tl.zeros_like(state_re) + 1.0, tl.zeros_like(state_im)
    if summary > 0:
        state_re, state_im = tl.zeros_like(state_re), tl.zeros_like(state_im)
    for start in range(first, tl.minimum(first + chunk, length), BT):
        t = tl.where(direction > 0, start, length - 1 - start)
        left = tl.minimum(length - start, BT).to(tl.int32)
        at = (batch * length + t) * width
        a_at = varying * (at - adjoint * direction * width)
        a_re, a_im, b_re, b_im = _operands(
            a_ptr + a_at,
            b_ptr + at,
            entry_ptr + t,
            entry_state_ptr,
            start,
            left,
            r,
            col,
            width,
            direction,
            varying,
            packed,
            adjoint,
            COMPLEX,
        )
        p_re, p_im, h_re, h_im = _scan(a_re, a_im, b_re, b_im, COMPLEX)
        past_re, past_im = _times(p_re, p_im, state_re, state_im, COMPLEX)
        h_re += past_re
        h_im += past_im
        state_re, state_im = _last(h_re, h_im, BT, COMPLEX)
        p_re, p_im = _last(p_re, p_im, BT, COMPLEX)
        product_re, product_im = _times(product_re, product_im, p_re, p_im, COMPLEX)
        if summary == 0:
            offset = (direction * r).to(tl.int64) * width + col
            _store(h_ptr + at, offset, (r < left) & (col < width), h_re, h_im, COMPLEX)
    if summary > 0:
        _store(h_ptr, row * width + col, col < width, state_re, state_im, COMPLEX)
        _store(product_ptr, row * width + col, col < width, product_re, product_im, COMPLEX)


@triton.jit(do_not_specialize=["length", "chunk", "direction", "varying", "packed"])
def backward_kernel(
    a_ptr,  # (B, L, W), or (W,) if not `varying`
    grad_h_ptr,  # (B, L, W)
    start_ptr,  # (B chunks, W): conj(a) lambda of the step after each chunk
    entry_ptr,  # (L,): the sequence whose last step this is, else -1; read if `packed`
    entry_state_ptr,  # (S, W): gradients of the final states; read if `packed`
    h_ptr,  # (B, L, W)
    first_ptr,  # (L,): the sequence whose first step this is, else -1; read if `packed`
    initial_ptr,  # (B, W) or (S, W): initial states
    grad_b_ptr,  # (B, L, W)
    grad_a_ptr,  # (B, L, W), or (B chunks, W) if not `varying`: sums over each chunk
    length,
    chunk,
    width,
    direction,
    varying,
    packed,
    COMPLEX: tl.constexpr,
    BT: tl.constexpr,
    BW: tl.constexpr,
):
    """lambda (the gradient of b), walked against the scan, and lambda conj(h^-), the gradient of a."""
    batch, first, row, col = _place(length, chunk, width, BW)
    r = tl.arange(0, BT)[:, None]
    state_re, state_im = _load(start_ptr, row * width + col, col < width, COMPLEX)
    sum_re, sum_im = tl.zeros_like(state_re), tl.zeros_like(state_im)
    for start in range(first, tl.minimum(first + chunk, length), BT):
        t = tl.where(direction > 0, start, length - 1 - start)
        left = tl.minimum(length - start, BT).to(tl.int32)
        at = (batch * length + t) * width
        a_re, a_im, b_re, b_im = _operands(
            a_ptr + varying * (at - direction * width),
            grad_h_ptr + at,
            entry_ptr + t,
            entry_state_ptr,
            start,
            left,
            r,
            col,
            width,
            direction,
            varying,
            packed,
            1,
            COMPLEX,
        )
        p_re, p_im, h_re, h_im = _scan(a_re, a_im, b_re, b_im, COMPLEX)
        past_re, past_im = _times(p_re, p_im, state_re, state_im, COMPLEX)
        h_re += past_re
        h_im += past_im
        state_re, state_im = _last(h_re, h_im, BT, COMPLEX)

        offset, inside = (direction * r).to(tl.int64) * width + col, (r < left) & (col < width)
        _store(grad_b_ptr + at, offset, inside, h_re, h_im, COMPLEX)
        # The state before a step is that of the next step in this order, or an initial state.
        more = inside & (r + 1 < length - start)
        x_re, x_im = _load(h_ptr + at + direction * width, offset, more, COMPLEX)
        sequence = tl.where(r + 1 == length - start, batch, -1)
        if packed > 0:
            sequence = tl.load(first_ptr + t + direction * r, mask=r < left, other=-1).to(tl.int64)
        begins = sequence >= 0
        x0_re, x0_im = _load(initial_ptr, sequence * width + col, begins & (col < width), COMPLEX)
        x_re, x_im = tl.where(begins, x0_re, x_re), tl.where(begins, x0_im, x_im)
        x_re, x_im = _times(h_re, h_im, x_re, -x_im, COMPLEX)
        sum_re += tl.sum(tl.where(r < left, x_re, 0.0), 0, keep_dims=True)
        sum_im += tl.sum(tl.where(r < left, x_im, 0.0), 0, keep_dims=True)
        if varying > 0:
            _store(grad_a_ptr + at, offset, inside, x_re, x_im, COMPLEX)
    if varying == 0:
        _store(grad_a_ptr, row * width + col, col < width, sum_re, sum_im, COMPLEX)
