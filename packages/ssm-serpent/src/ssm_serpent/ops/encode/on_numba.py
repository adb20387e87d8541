"""Encoding on a CPU: compiled loops lay windows side by side and spread their gradients, BLAS does the products.

A tile of windows is gathered, multiplied while it is in the cache, and forgotten; the gradient of a tile is added to
its tokens window after window. Loops are cut among threads by channels, so how work is cut changes no bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_runtime import LANES, jit, launch, rows_of
from ssm_serpent.ops.encode.on_torch import basis_backward, from_basis, split, tile_ranges, used_rows
from ssm_serpent.ops.encode.windows import check_windows


def forward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> tuple[Tensor]:
    """Points (B, K, h). Clean inputs of one dtype assumed."""
    check_windows(x, start, inside)
    tokens_h, basis_h = split(weight, x.shape[2])
    out = from_basis(inside, distance, basis_h, bias, centres, log_gamma)
    windows = _Windows(x, start, inside)
    for low, high in windows.ranges:
        out[low:high].addmm_(windows.tile(low, high), tokens_h.T)
    return (out.view(*start.shape, len(weight)),)


def backward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the distances, the weight, the bias, the centres and log_gamma."""
    grad = used_rows(grad, inside)
    tokens_h, basis_h = split(weight, x.shape[2])
    grad_tokens, grad_x = torch.zeros_like(tokens_h), x.new_zeros(x.shape)
    windows = _Windows(x, start, inside)
    for low, high in windows.ranges:
        part = grad[low:high]
        grad_tokens.addmm_(part.T, windows.tile(low, high))
        torch.mm(part, tokens_h, out=windows.buffer[: high - low])
        windows.add_to(grad_x, low, high)
    return grad_x, *basis_backward(grad, grad_tokens, inside, distance, basis_h, bias, centres, log_gamma)


class _Windows:
    """The windows of x, a tile at a time in one buffer (points, W D)."""

    def __init__(self, x: Tensor, start: Tensor, inside: Tensor) -> None:
        self.length, self.width = x.shape[1:]
        self.rows = rows_of(x)
        self.start, self.inside = start.contiguous().numpy(), inside.contiguous().numpy()
        self.ranges = list(tile_ranges(start.numel(), inside.shape[2] * self.width, x.device))
        if not x.numel():
            self.ranges = []
        most = max((high - low for low, high in self.ranges), default=0)
        self.buffer = x.new_empty(most, inside.shape[2] * self.width)

    def tile(self, low: int, high: int) -> Tensor:
        """The tokens in the windows of points low, ..., high - 1: (points, W D), zero in slots that hold none."""
        self._launch(_gather, self.rows, low, high)
        return self.buffer[: high - low]

    def add_to(self, grad_x: Tensor, low: int, high: int) -> None:
        """Add the gradient of such a tile, which lies in the buffer, to the tokens'."""
        self._launch(_add, rows_of(grad_x), low, high)

    def _launch(self, kernel, rows: np.ndarray, low: int, high: int) -> None:
        steps = np.array([0, (high - low) * self.inside.shape[2]])
        tile = self.buffer[: high - low].numpy().reshape(-1, self.width)
        launch(kernel, (rows, self.start, self.inside, tile, self.length, low), steps, self.width, LANES)


@jit
def _gather(rows, start, inside, tile, length, first, first_row, last_row, low, high):
    points, window = inside.shape[1:]
    for r in range(tile.shape[0]):
        p, j = first + r // window, r % window
        b, k = p // points, p % points
        if inside[b, k, j]:
            token = b * length + start[b, k] + j
            for d in range(low, high):
                tile[r, d] = rows[token, d]
        else:
            for d in range(low, high):
                tile[r, d] = 0


@jit
def _add(rows, start, inside, tile, length, first, first_row, last_row, low, high):
    points, window = inside.shape[1:]
    for r in range(tile.shape[0]):
        p, j = first + r // window, r % window
        b, k = p // points, p % points
        if inside[b, k, j]:
            token = b * length + start[b, k] + j
            for d in range(low, high):
                rows[token, d] += tile[r, d]
