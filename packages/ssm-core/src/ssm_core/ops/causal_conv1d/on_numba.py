"""Causal convolution by loops: time outside, channels inside, so that the inner one vectorises.

Arrays are matrices (steps of all sequences, channels); `offsets` says where each sequence starts. `before` holds W - 1
rows a sequence, the inputs before its first; `weight` is (W, H). What follows the convolution is one of

    0 : y = z,    1 : y = z sigmoid(z),    2 : y = gate_scale x sigmoid(z).

The backward kernel computes z_t anew and at once spreads its gradient over the W inputs it came from, rows which are
still in the cache: every array crosses memory once. A thread sums the gradient of the weight over 64 steps in the
precision of the data, and these sums in float64, one for each sequence: how work is cut changes no bit.
"""

import numpy as np
import torch
from torch import Tensor

from ssm_core.ops._numba_runtime import inlined, jit, launch, offsets_of, rows_of
from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, final_state
from ssm_core.ops.causal_conv1d.sigmoid import sigmoid

KINDS = {"": 0, "silu": 1, "gate": 2}
# Steps whose products are summed in the precision of the data.
_BLOCK = 64


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
    launch(_forward, (*inputs, rows_of(y), offsets, *kind), offsets, x.shape[2])
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
    sums = torch.zeros(len(offsets) - 1, width + 1, x.shape[2], dtype=torch.float64)
    inputs = _inputs(x, weight, bias, initial_state, len(offsets) - 1)
    outputs = rows_of(grad_x), rows_of(grad_initial), rows_of(sums)
    kind = KINDS[activation], inputs[0].dtype.type(gate_scale)
    launch(_backward, (*inputs, rows_of(grad_y), *outputs, offsets, *kind), offsets, x.shape[2])
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


# The kernels index matrices in place: a row taken as a view would count a reference per step, and threads that count
# references to one array wait for each other.


@jit
def _forward(x, before, weight, bias, y, offsets, kind, scale, first_row, last_row, low, high):
    for s in range(first_row, last_row):
        for t in range(offsets[s], offsets[s + 1]):
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
    kind,
    scale,
    first_row,
    last_row,
    low,
    high,
):
    width, channels = weight.shape  # an empty x has no columns
    past = width - 1
    grad_z = np.empty((1, channels), x.dtype)
    sums = np.zeros((width + 1, channels), x.dtype)
    for s in range(first_row, last_row):
        for t in range(offsets[s], offsets[s + 1]):
            n = t - offsets[s]
            if kind != 0:
                _filter(grad_z, 0, x, before, weight, bias, s, t, offsets[s], low, high)
            _through_activation(grad_z, grad_x, sums, x, grad_y, t, kind, scale, width, low, high)
            for k in range(width):
                if n + k < past:
                    _tap_backward(grad_before, sums, grad_z, weight, k, before, s * past + n + k, low, high)
                else:
                    _tap_backward(grad_x, sums, grad_z, weight, k, x, t - past + k, low, high)
            if n % _BLOCK == _BLOCK - 1:
                _flush(total, s, sums, low, high)
        _flush(total, s, sums, low, high)


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
def _through_activation(grad_z, grad_x, sums, x, grad_y, t, kind, scale, width, low, high):
    """From z_t in grad_z to its gradient, added to the bias's; and that of x_t past the convolution."""
    if kind == 0:
        for j in range(low, high):
            grad_x[t, j] = 0
            grad_z[0, j] = grad_y[t, j]
    elif kind == 1:
        for j in range(low, high):
            gate = sigmoid(grad_z[0, j])
            grad_x[t, j] = 0
            grad_z[0, j] = grad_y[t, j] * (gate + grad_z[0, j] * (gate - gate * gate))
    else:
        for j in range(low, high):
            gate = sigmoid(grad_z[0, j])
            direct = scale * grad_y[t, j] * gate
            grad_x[t, j] = direct
            grad_z[0, j] = direct * x[t, j] - direct * x[t, j] * gate
    for j in range(low, high):
        sums[width, j] += grad_z[0, j]


@inlined
def _tap_backward(grad_x, sums, grad_z, weight, k, x, r, low, high):
    for j in range(low, high):
        grad_x[r, j] += weight[k, j] * grad_z[0, j]
        sums[k, j] += grad_z[0, j] * x[r, j]


@inlined
def _flush(total, s, sums, low, high):
    """Add the sums to the rows of sequence s in `total`, and begin anew."""
    rows = sums.shape[0]
    for k in range(rows):
        for j in range(low, high):
            total[s * rows + k, j] += sums[k, j]
            sums[k, j] = 0
