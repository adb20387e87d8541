"""The convolutions of the frame encoder, as matrix products that a CPU does quickly.

Encoding 1600 frames of 24x24 a step is the cost of training on the pendulum, and a direct convolution of one channel
into twelve leaves a CPU mostly waiting for memory. Here, with the same result up to rounding:

- Frames run along the innermost axis, so that every patch is made by copying long contiguous runs.
- The first convolution and its pooling are one product: each pooled place sees a 6x6 patch, and the 12 kernels of 5x5
  stand in it at 4 places, 48 outputs of which the greatest of each 4 stays. Max-pool and ReLU commute, so ReLU sees
  a quarter of the values.
- Frames go through in chunks whose buffers stay in the cache. Patches are made anew in the backward pass; kept are only
  which of the 4 won and the input of the second convolution. The frames themselves get no gradient.
- Biases are one more column of the weights, against a row of ones in the patches; 1/255 is in the weights.

:func:`plain` is the definition, and what runs on other devices, in other types and under ``torch.compile``.

Shape suffixes: n frames, f frames of one chunk, h w place, p pooled place, k entry of a patch, c channel.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Weights: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Kernel (12, 1, 5, 5) and bias (12,) of the first convolution, kernel (12, 12, 3, 3) and bias (12,) of the second."""

SIZE = 24
CHANNELS = 12
FEATURES = 108
CHUNK = 200
"""Frames that go through at once: few enough for the cache (64 to 200 measure alike), and no fewer, because threads
meet at the end of every operation and wait there for whichever the machine has put aside."""

TAPS = {(0, 0): 1, (1, 0): 2, (1, 1): 0}
"""(parity of an input row, output row below it or not) -> row of the 3x3 kernel that joins them, at stride 2."""

aten = torch.ops.aten


def trunk(frames_nhw: Tensor, weights: Weights) -> Tensor:
    """Two convolutions, each with max-pool and ReLU.

    Args:
        frames_nhw: Frames (n, 24, 24), uint8, 0 to 255; floats are taken too, by the plain form.
        weights: Kernels and biases, float32 or float64 for the fast form.

    Returns:
        Features (n, 108) in the type of the weights.
    """
    fast = frames_nhw.device.type == "cpu" and frames_nhw.dtype == torch.uint8 and len(frames_nhw) > 0
    fast = fast and weights[0].dtype in (torch.float32, torch.float64)
    if torch.compiler.is_compiling() or not fast:
        return plain(frames_nhw, weights)
    kernel1, bias1, kernel2, bias2 = weights
    return _Trunk.apply(frames_nhw, _matrix1(kernel1, bias1), _matrix2(kernel2, bias2), _transposed(kernel2))


def plain(frames_nhw: Tensor, weights: Weights) -> Tensor:
    """The same by PyTorch's own convolutions: (n, 24, 24) -> (n, 108)."""
    kernel1, bias1, kernel2, bias2 = weights
    x = frames_nhw[:, None].to(kernel1.dtype) / 255
    x = F.relu(F.max_pool2d(F.conv2d(x, kernel1, bias1, padding=2), 2))
    x = F.relu(F.max_pool2d(F.conv2d(x, kernel2, bias2, stride=2, padding=1), 2))
    return x.flatten(1)


def _matrix1(kernel: Tensor, bias: Tensor) -> Tensor:
    """Return (48, 37): the 5x5 kernels at the 4 places of a 6x6 patch, and the biases."""
    placed = [
        F.pad(kernel[:, 0], (right, 1 - right, down, 1 - down)).flatten(1)
        for down in (0, 1)
        for right in (0, 1)
    ]
    return torch.cat([torch.cat(placed) / 255, bias.repeat(4)[:, None]], dim=1)


def _matrix2(kernel: Tensor, bias: Tensor) -> Tensor:
    """Return (12, 109): the 3x3 kernels by (row, column, channel), and the biases."""
    return torch.cat([kernel.permute(0, 2, 3, 1).flatten(1), bias[:, None]], dim=1)


def _transposed(kernel: Tensor) -> Tensor:
    """Return (48, 48): from the 2x2 outputs round a 2x2 block of inputs, (row, column, channel), to that block."""
    kernel = kernel.detach()
    matrix = kernel.new_zeros(2, 2, CHANNELS, 2, 2, CHANNELS)
    for (row, below), i in TAPS.items():
        for (column, right), j in TAPS.items():
            matrix[row, column, :, below, right] = kernel[:, :, i, j].t()
    return matrix.view(48, 48)


class _Chunk:
    """Buffers for f frames; each method fills one and returns it."""

    def __init__(self, f: int, like: Tensor) -> None:
        self.f = f
        self.frames = like.new_zeros(28, 28, f)
        self.patches1 = like.new_ones(144, 37, f)
        self.out1 = like.new_empty(144, 4, CHANNELS * f)
        self.pooled1 = like.new_empty(144, CHANNELS * f)
        self.patches2 = like.new_ones(36, 109, f)
        self.out2 = like.new_empty(9, 4, CHANNELS * f)
        self.grad2 = like.new_zeros(7, 7, CHANNELS, f)
        self.patches_t = like.new_empty(36, 48, f)
        self.grad_block = like.new_empty(36, 48, f)

    def unfold1(self, frames_fhw: Tensor) -> Tensor:
        """Return the 6x6 patches of the padded frames, and ones: (144, 37, f)."""
        f = self.f
        self.frames[2:26, 2:26] = frames_fhw.permute(1, 2, 0)
        patches = self.frames.as_strided((12, 12, 6, 6 * f), (56 * f, 2 * f, 28 * f, 1))
        self.patches1[:, :36].view(12, 12, 6, 6 * f).copy_(patches)
        return self.patches1

    def unfold2(self, hidden_hwcf: Tensor) -> Tensor:
        """Return the 3x3 patches of the padded (13, 13, 12, f), and ones: (36, 109, f).

        Places are in the order of the pooling: the four that are pooled together follow each other.
        """
        f, column = self.f, CHANNELS * self.f
        row = 13 * column
        strides = (4 * row, 4 * column, 2 * row, 2 * column, row, 1)
        patches = hidden_hwcf.as_strided((3, 3, 2, 2, 3, 3 * column), strides)
        self.patches2[:, :108].view(3, 3, 2, 2, 3, 36 * f).copy_(patches)
        return self.patches2

    def fold2(self, grad_out2: Tensor, transposed: Tensor) -> Tensor:
        """Return the gradient of the second convolution's input, as blocks of 2x2 places (6, 6, 2, 2, 12 f)."""
        column = CHANNELS * self.f
        row = 7 * column
        blocks = grad_out2.view(3, 3, 2, 2, column).permute(0, 2, 1, 3, 4)
        self.grad2[:6, :6].view(3, 2, 3, 2, column).copy_(blocks)
        patches = self.grad2.as_strided((6, 6, 2, 2 * column), (row, column, row, 1))
        self.patches_t.view(6, 6, 2, 2 * column).copy_(patches)
        torch.matmul(transposed, self.patches_t, out=self.grad_block)
        return self.grad_block.view(6, 6, 2, 2, column)


class _Trunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, matrix1: Tensor, matrix2: Tensor, transposed: Tensor) -> Tensor:
        out = matrix1.new_empty(len(frames), FEATURES)
        kept: list[Tensor] = []
        chunk = _Chunk(0, matrix1)
        for part, out_part in zip(frames.split(CHUNK), out.split(CHUNK), strict=True):
            f = len(part)
            chunk = chunk if chunk.f == f else _Chunk(f, matrix1)
            torch.matmul(matrix1, chunk.unfold1(part), out=chunk.out1.view(144, 48, f))
            winner1 = _greatest(chunk.out1, chunk.pooled1)
            hidden = matrix1.new_empty(13, 13, CHANNELS, f)
            hidden[0] = 0
            hidden[1:, 0] = 0
            torch.clamp_min(chunk.pooled1.view(12, 12, CHANNELS, f), 0, out=hidden[1:, 1:])
            torch.matmul(matrix2, chunk.unfold2(hidden), out=chunk.out2.view(36, CHANNELS, f))
            pooled2 = out.new_empty(9, CHANNELS * f)
            winner2 = _greatest(chunk.out2, pooled2)
            out_part.view(f, CHANNELS, 9).copy_(pooled2.view(9, CHANNELS, f).permute(2, 1, 0))
            kept += [winner1, hidden, winner2]
        out.relu_()
        ctx.save_for_backward(frames, matrix1, matrix2, transposed, out, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        frames, matrix1, matrix2, transposed, out, *kept = ctx.saved_tensors
        grad = aten.threshold_backward(grad, out, 0)
        # One sum for each place: the products then need no further addition, and the order of sums is fixed.
        grad1 = matrix1.new_zeros(144, 48, 37)
        grad2 = matrix2.new_zeros(36, CHANNELS, 109)
        chunk = _Chunk(0, matrix1)
        kept_parts = zip(kept[::3], kept[1::3], kept[2::3], strict=True)
        for part, grad_part, (winner1, hidden, winner2) in zip(
            frames.split(CHUNK), grad.split(CHUNK), kept_parts, strict=True
        ):
            f = len(part)
            chunk = chunk if chunk.f == f else _Chunk(f, matrix1)
            grad_pooled2 = grad_part.reshape(f, CHANNELS, 9).permute(2, 1, 0).reshape(9, CHANNELS * f)
            grad_out2 = _to_winner(grad_pooled2, winner2, chunk.out2)
            grad2.baddbmm_(grad_out2.view(36, CHANNELS, f), chunk.unfold2(hidden).mT)
            _relu_backward(chunk.fold2(grad_out2, transposed), hidden, out=chunk.pooled1)
            grad_out1 = _to_winner(chunk.pooled1, winner1, chunk.out1)
            grad1.baddbmm_(grad_out1.view(144, 48, f), chunk.unfold1(part).mT)
        return None, grad1.sum(0), grad2.sum(0), None


# The kernels below are those behind max_pool2d and relu. They are called by name for their `out` forms: a fresh buffer
# of megabytes at each call costs more in page faults than the work itself.


def _greatest(out: Tensor, pooled: Tensor) -> Tensor:
    """Write the greatest of each 4 of (p, 4, m) to (p, m) and return which it was, int64 (p, m); the first if equal."""
    winner = torch.empty_like(pooled, dtype=torch.int64)
    aten.max_pool2d_with_indices.out(
        _as_image(out), (4, 1), (4, 1), out=_as_image(pooled[:, None]), indices=_as_image(winner[:, None])
    )
    return winner


def _to_winner(grad_pooled: Tensor, winner: Tensor, grad_out: Tensor) -> Tensor:
    """Fill (p, 4, m) with the gradient (p, m) where it won and zero elsewhere."""
    image = _as_image(grad_out)
    args = ((4, 1), (4, 1), (0, 0), (1, 1), False, _as_image(winner[:, None]))
    aten.max_pool2d_with_indices_backward.grad_input(
        _as_image(grad_pooled[:, None]), image, *args, grad_input=image
    )
    return grad_out


def _relu_backward(grad_blocks: Tensor, hidden_hwcf: Tensor, out: Tensor) -> None:
    """Write the gradient before ReLU, from (6, 6, 2, 2, 12 f) blocks, to (144, 12 f) in the order of places."""
    inner = hidden_hwcf[1:, 1:].flatten(2).unflatten(1, (6, 2)).unflatten(0, (6, 2)).permute(0, 2, 1, 3, 4)
    place = out.view(6, 2, 6, 2, -1).permute(0, 2, 1, 3, 4)
    aten.threshold_backward.grad_input(grad_blocks, inner, 0, grad_input=place)


def _as_image(rows: Tensor) -> Tensor:
    """View (p, rows, m) as p channels-last images of m channels, of the height of the rows and width 1."""
    return rows.unsqueeze(2).permute(0, 3, 1, 2)
