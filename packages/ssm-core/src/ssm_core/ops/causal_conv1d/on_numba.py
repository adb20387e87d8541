"""Causal convolution by loops: time outside, channels inside, so that the inner one vectorises.

Arrays are matrices (steps of all sequences, channels); `offsets` says where each sequence starts. `before` holds W - 1
rows a sequence, the inputs before its first; `weight` is (W, H). What follows the convolution is one of

    0 : y = z,    1 : y = z sigmoid(z),    2 : y = gate_scale x sigmoid(z).

The backward kernel computes z_t anew and at once spreads its gradient over the W inputs it came from, rows which are
still in the cache: every array crosses memory once. A filter of four taps, the width of all the models here, is written
out, and backward for four steps at a time: each row is then fetched once for four products and not for each of them.

Work is cut in time, so that a single long sequence keeps all threads busy on memory of their own. A piece computes the
gradients of the W - 1 steps behind it once more rather than wait for its neighbour. The gradient of the weight is
summed over 64 steps in the precision of the data, and these sums in float64, one for each piece: how pieces are dealt
to threads changes no bit.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_runtime import inlined, jit, launch, offsets_of, rows_of
from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, final_state
from ssm_core.ops.causal_conv1d.sigmoid import sigmoid

KINDS = {"": 0, "silu": 1, "gate": 2}
# Steps whose products are summed in the precision of the data; a multiple of four.
_BLOCK = 64
# Steps of a piece.
_PIECE = 1024


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    activation: str,
    gate_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H) and the last W - 1 inputs (B or S,W-1,H). Clean inputs of one dtype assumed."""
    offsets = offsets_of(x, cu_seqlens)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    inputs = _inputs(x, weight, bias, initial_state, len(offsets) - 1)
    kind = KINDS[activation], inputs[0].dtype.type(gate_scale)
    pieces, owner = _pieces(offsets, weight.shape[1])
    launch(_forward, (*inputs, rows_of(y), offsets, pieces, owner, *kind), pieces, x.shape[2])
    return y, final_state(x, initial_state, cu_seqlens, weight.shape[1] - 1)


def backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    activation: str,
    gate_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the weight, the bias and the initial state."""
    offsets, width = offsets_of(x, cu_seqlens), weight.shape[1]
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_initial = x.new_zeros(len(offsets) - 1, width - 1, x.shape[2])
    pieces, owner = _pieces(offsets, width)
    sums = torch.zeros(len(owner), width + 1, x.shape[2], dtype=torch.float64)
    inputs = _inputs(x, weight, bias, initial_state, len(offsets) - 1)
    outputs = rows_of(grad_x), rows_of(grad_initial), rows_of(sums)
    kind = KINDS[activation], inputs[0].dtype.type(gate_scale)
    arrays = *inputs, rows_of(grad_y), *outputs, offsets, pieces, owner, *kind
    launch(_backward, arrays, pieces, x.shape[2])
    add_final_state_gradient(grad_x, grad_initial, grad_state, cu_seqlens)
    total = sums.sum(0).to(x.dtype)
    return grad_x, total[:-1].T, total[-1].clone(), grad_initial


def _inputs(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, rows: int
) -> tuple[np.ndarray, ...]:
    """The matrices x, before, weight and bias."""
    if initial_state is None:
        initial_state = x.new_zeros(rows, weight.shape[1] - 1, x.shape[2])
    bias = x.new_zeros(x.shape[2]) if bias is None else bias
    return rows_of(x), rows_of(initial_state), rows_of(weight.T[None]), rows_of(bias[None, None])


def _pieces(offsets: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each piece starts and the last ends (P+1,), and the sequence that it belongs to (P,)."""
    # Nothing reaches over more than one border: the gradient of an initial state is a first piece's alone.
    step = max(_PIECE, width)
    starts = [np.arange(low, max(high, low + 1), step) for low, high in pairwise(offsets.tolist())]
    owner = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    return np.concatenate([*starts, offsets[-1:]]), owner


# The kernels index matrices in place: a row taken as a view would count a reference per step, and threads that count
# references to one array wait for each other.


@jit
def _forward(
    x, before, weight, bias, y, offsets, pieces, owner, kind, scale, first_piece, last_piece, low, high
):
    for p in range(first_piece, last_piece):
        s = owner[p]
        for t in range(pieces[p], pieces[p + 1]):
            if weight.shape[0] == 4 and t - offsets[s] >= 3:
                _four_taps_through(y, t, x, weight, bias, kind, scale, low, high)
                continue
            _filter(y, t, x, before, weight, bias, s, t, offsets[s], low, high)
            if kind == 1:
                for j in range(low, high):
                    y[t, j] *= sigmoid(y[t, j])
            elif kind == 2:
                for j in range(low, high):
                    y[t, j] = scale * x[t, j] * sigmoid(y[t, j])


@jit
def _backward(
    x,
    before,
    weight,
    bias,
    grad_y,
    grad_x,
    grad_before,
    total,
    offsets,
    pieces,
    owner,
    kind,
    scale,
    first_piece,
    last_piece,
    low,
    high,
):
    width, channels = weight.shape  # an empty x has no columns
    past = width - 1
    grad_z = np.empty((4, channels), x.dtype)
    direct = np.empty((1, channels), x.dtype)
    sums = np.zeros((width + 1, channels), x.dtype)
    for p in range(first_piece, last_piece):
        s, start, end = owner[p], pieces[p], pieces[p + 1]
        first = offsets[s]
        t = start
        while t < end:
            if width == 4 and t > start and (t - start) % 4 == 0 and t + 4 <= end:
                _four_steps_back(grad_z, sums, grad_x, t, x, grad_y, weight, bias, kind, scale, low, high)
                t += 4
                if (t - start) % _BLOCK == 0:
                    _flush(total, p, sums, low, high)
                continue
            if kind != 0:
                _filter(grad_z, 0, x, before, weight, bias, s, t, first, low, high)
            _through_activation(grad_z, 0, grad_x, t, x, grad_y, t, kind, scale, low, high)
            for j in range(low, high):
                sums[width, j] += grad_z[0, j]
            for k in range(width):
                r = t - past + k
                if r >= start:
                    _to_input(grad_x, grad_z, weight, k, r, low, high)
                    _to_weight(sums, grad_z, k, x, r, low, high)
                elif r >= first:  # the gradient of this input is the piece's before
                    _to_weight(sums, grad_z, k, x, r, low, high)
                else:
                    n = s * past + r - first + past
                    _to_input(grad_before, grad_z, weight, k, n, low, high)
                    _to_weight(sums, grad_z, k, before, n, low, high)
            t += 1
            if (t - start) % _BLOCK == 0:
                _flush(total, p, sums, low, high)
        _flush(total, p, sums, low, high)
        for t in range(end, min(end + past, offsets[s + 1])):
            if kind != 0:
                _filter(grad_z, 0, x, before, weight, bias, s, t, first, low, high)
            _through_activation(grad_z, 0, direct, 0, x, grad_y, t, kind, scale, low, high)
            for k in range(end - t + past):
                if t - past + k >= start:
                    _to_input(grad_x, grad_z, weight, k, t - past + k, low, high)


@jit
def _filter(z, row, x, before, weight, bias, s, t, start, low, high):
    """Row `row` of z: b + sum_k w_k x_(t-past+k), the inputs before the sequence being rows of `before`."""
    past = weight.shape[0] - 1
    n = t - start
    for j in range(low, high):
        z[row, j] = bias[0, j]
    for k in range(past - n):
        _tap(z, row, weight, k, before, s * past + n + k, low, high)
    k = max(past - n, 0)
    while k + 3 <= past:
        _four_taps(z, row, weight, k, x, t - past + k, low, high)
        k += 4
    while k <= past:
        _tap(z, row, weight, k, x, t - past + k, low, high)
        k += 1


@inlined
def _tap(z, row, weight, k, x, r, low, high):
    for j in range(low, high):
        z[row, j] += weight[k, j] * x[r, j]


@inlined
def _four_taps(z, row, weight, k, x, r, low, high):
    for j in range(low, high):
        pair = weight[k, j] * x[r, j] + weight[k + 1, j] * x[r + 1, j]
        z[row, j] += pair + weight[k + 2, j] * x[r + 2, j] + weight[k + 3, j] * x[r + 3, j]


@inlined
def _z(x, weight, bias, t, j):
    """z_t of a filter of four taps, none of them before the sequence."""
    early = weight[0, j] * x[t - 3, j] + weight[1, j] * x[t - 2, j]
    return bias[0, j] + early + (weight[2, j] * x[t - 1, j] + weight[3, j] * x[t, j])


@inlined
def _four_taps_through(y, t, x, weight, bias, kind, scale, low, high):
    """y_t of a filter of four taps and what follows it, in one loop."""
    if kind == 0:
        for j in range(low, high):
            y[t, j] = _z(x, weight, bias, t, j)
    elif kind == 1:
        for j in range(low, high):
            z = _z(x, weight, bias, t, j)
            y[t, j] = z * sigmoid(z)
    else:
        for j in range(low, high):
            y[t, j] = scale * x[t, j] * sigmoid(_z(x, weight, bias, t, j))


@jit
def _four_steps_back(grad_z, sums, grad_x, t, x, grad_y, weight, bias, kind, scale, low, high):
    """All that z_t to z_(t+3) of a filter of four taps pass on, to inputs that are all the piece's."""
    for i in range(4):
        if kind != 0:
            for j in range(low, high):
                grad_z[i, j] = _z(x, weight, bias, t + i, j)
        _through_activation(grad_z, i, grad_x, t + i, x, grad_y, t + i, kind, scale, low, high)
    for j in range(low, high):
        a, b, c, d = grad_z[0, j], grad_z[1, j], grad_z[2, j], grad_z[3, j]
        x0, x1, x2, x3 = x[t - 3, j], x[t - 2, j], x[t - 1, j], x[t, j]
        x4, x5, x6 = x[t + 1, j], x[t + 2, j], x[t + 3, j]
        sums[0, j] += (a * x0 + b * x1) + (c * x2 + d * x3)
        sums[1, j] += (a * x1 + b * x2) + (c * x3 + d * x4)
        sums[2, j] += (a * x2 + b * x3) + (c * x4 + d * x5)
        sums[3, j] += (a * x3 + b * x4) + (c * x5 + d * x6)
        sums[4, j] += (a + b) + (c + d)
    for j in range(low, high):
        a, b, c, d = grad_z[0, j], grad_z[1, j], grad_z[2, j], grad_z[3, j]
        w0, w1, w2, w3 = weight[0, j], weight[1, j], weight[2, j], weight[3, j]
        grad_x[t - 3, j] += w0 * a
        grad_x[t - 2, j] += w1 * a + w0 * b
        grad_x[t - 1, j] += w2 * a + w1 * b + w0 * c
        grad_x[t, j] += (w3 * a + w2 * b) + (w1 * c + w0 * d)
    for j in range(low, high):  # fewer rows a loop: it vectorises once it has seen that none overlap
        b, c, d = grad_z[1, j], grad_z[2, j], grad_z[3, j]
        w1, w2, w3 = weight[1, j], weight[2, j], weight[3, j]
        grad_x[t + 1, j] += w3 * b + w2 * c + w1 * d
        grad_x[t + 2, j] += w3 * c + w2 * d
        grad_x[t + 3, j] += w3 * d


@inlined
def _through_activation(grad_z, z_row, grad_x, row, x, grad_y, t, kind, scale, low, high):
    """From z_t in `z_row` of grad_z to its gradient; and that of x_t past the convolution, to `row` of grad_x."""
    if kind == 0:
        for j in range(low, high):
            grad_x[row, j] = 0
            grad_z[z_row, j] = grad_y[t, j]
    elif kind == 1:
        for j in range(low, high):
            gate = sigmoid(grad_z[z_row, j])
            grad_x[row, j] = 0
            grad_z[z_row, j] = grad_y[t, j] * (gate + grad_z[z_row, j] * (gate - gate * gate))
    else:
        for j in range(low, high):
            gate = sigmoid(grad_z[z_row, j])
            direct = scale * grad_y[t, j] * gate
            grad_x[row, j] = direct
            grad_z[z_row, j] = direct * x[t, j] - direct * x[t, j] * gate


@inlined
def _to_input(grad_x, grad_z, weight, k, r, low, high):
    for j in range(low, high):
        grad_x[r, j] += weight[k, j] * grad_z[0, j]


@inlined
def _to_weight(sums, grad_z, k, x, r, low, high):
    for j in range(low, high):
        sums[k, j] += grad_z[0, j] * x[r, j]


@inlined
def _flush(total, p, sums, low, high):
    """Add the sums to the rows of piece p in `total`, and begin anew."""
    rows = sums.shape[0]
    for k in range(rows):
        for j in range(low, high):
            total[p * rows + k, j] += sums[k, j]
            sums[k, j] = 0
