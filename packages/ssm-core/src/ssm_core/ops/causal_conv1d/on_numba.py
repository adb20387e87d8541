"""Causal convolution by loops: time outside, channels inside, so that the inner one vectorises.

Arrays are matrices (steps of all sequences, channels); `offsets` says where each sequence starts. `before` holds W - 1
rows a sequence, the inputs before its first; `weight` is (W, H). What follows the convolution is one of

    0 : y = z,    1 : y = z sigmoid(z),    2 : y = gate_scale x sigmoid(z).

The backward kernel computes z_t anew and at once spreads its gradient over the W inputs it came from, rows which are
still in the cache: every array crosses memory once.

Work is cut in time, so that a single long sequence keeps all threads busy on memory of their own. A piece computes the
gradients of the W - 1 steps behind it once more rather than wait for its neighbour. The gradient of the weight is
summed over 64 steps in the precision of the data, and these sums in float64, one for each piece: how pieces are dealt
to threads changes no bit.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssm_core.ops._numba_runtime import inlined, jit, launch, offsets_of, rows_of
from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, final_state
from ssm_core.ops.causal_conv1d.sigmoid import sigmoid

KINDS = {"": 0, "silu": 1, "gate": 2}
# Steps whose products are summed in the precision of the data.
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
    grad_z = np.empty((1, channels), x.dtype)
    direct = np.empty((1, channels), x.dtype)
    sums = np.zeros((width + 1, channels), x.dtype)
    for p in range(first_piece, last_piece):
        s, start, end = owner[p], pieces[p], pieces[p + 1]
        first = offsets[s]
        for t in range(start, end):
            if kind != 0:
                _filter(grad_z, 0, x, before, weight, bias, s, t, first, low, high)
            _through_activation(grad_z, grad_x, t, x, grad_y, t, kind, scale, low, high)
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
            if (t - start) % _BLOCK == _BLOCK - 1:
                _flush(total, p, sums, low, high)
        _flush(total, p, sums, low, high)
        for t in range(end, min(end + past, offsets[s + 1])):
            if kind != 0:
                _filter(grad_z, 0, x, before, weight, bias, s, t, first, low, high)
            _through_activation(grad_z, direct, 0, x, grad_y, t, kind, scale, low, high)
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
def _through_activation(grad_z, grad_x, row, x, grad_y, t, kind, scale, low, high):
    """From z_t in grad_z to its gradient; and that of x_t past the convolution, to `row` of grad_x."""
    if kind == 0:
        for j in range(low, high):
            grad_x[row, j] = 0
            grad_z[0, j] = grad_y[t, j]
    elif kind == 1:
        for j in range(low, high):
            gate = sigmoid(grad_z[0, j])
            grad_x[row, j] = 0
            grad_z[0, j] = grad_y[t, j] * (gate + grad_z[0, j] * (gate - gate * gate))
    else:
        for j in range(low, high):
            gate = sigmoid(grad_z[0, j])
            direct = scale * grad_y[t, j] * gate
            grad_x[row, j] = direct
            grad_z[0, j] = direct * x[t, j] - direct * x[t, j] * gate


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
