"""Reading points back on a CPU, token after token; a point sums its gradient in float64 while its tokens pass."""

import numpy as np
from torch import Tensor

from ssm_core.opkit.numba_runtime import jit, launch, rows_of, states_of
from ssm_serpent.ops.spread.on_torch import check_points


def forward(y: Tensor, point: Tensor, before: Tensor | None) -> tuple[Tensor]:
    """(B, L, h). Clean inputs of one dtype assumed."""
    check_points(point, y.shape[1])
    out = y.new_empty(*point.shape, y.shape[2])
    before = y.new_zeros(len(y), y.shape[2]) if before is None else before
    arrays = rows_of(y), point.contiguous().numpy(), states_of(before), rows_of(out)
    launch(_spread, (*arrays, y.shape[1]), _offsets(point), y.shape[2])
    return (out,)


def backward(y: Tensor, point: Tensor, before: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of y, and of what stood before."""
    grad_y, grad_before = y.new_zeros(y.shape), y.new_zeros(len(y), y.shape[2])
    arrays = rows_of(grad), point.contiguous().numpy(), rows_of(grad_y), states_of(grad_before)
    launch(_collect, (*arrays, y.shape[1]), _offsets(point), y.shape[2])
    return grad_y, None if before is None else grad_before


def _offsets(point: Tensor) -> np.ndarray:
    return np.arange(len(point) + 1, dtype=np.int64) * point.shape[1]


@jit
def _spread(y, point, before, out, points, first_row, last_row, low, high):
    length = point.shape[1]
    for b in range(first_row, last_row):
        for l in range(length):
            q = point[b, l]
            if q > 0:
                for j in range(low, high):
                    out[b * length + l, j] = y[b * points + q - 1, j]
            else:
                for j in range(low, high):
                    out[b * length + l, j] = before[b, j]


@jit
def _collect(grad, point, grad_y, grad_before, points, first_row, last_row, low, high):
    """Tokens of a point follow each other, so one row of sums is enough, and one more for those without a point."""
    length = point.shape[1]
    sums = np.zeros((2, grad.shape[1]), np.float64)
    for b in range(first_row, last_row):
        for l in range(length):
            q = point[b, l]
            held = 1 if q > 0 else 0
            for j in range(low, high):
                sums[held, j] += grad[b * length + l, j]
            if q > 0 and (l + 1 == length or point[b, l + 1] != q):
                for j in range(low, high):
                    grad_y[b * points + q - 1, j] = sums[1, j]
                    sums[1, j] = 0
        for j in range(low, high):
            grad_before[b, j] = sums[0, j]
            sums[0, j] = 0
