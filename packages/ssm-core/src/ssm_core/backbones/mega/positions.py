"""Mega's two position biases; both depend on the distance between query and key alone.

Each makes the numbers of all distances key - query = -(reach - 1), ..., reach - 1, from which `by_rows` and
`by_distance` make matrices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.ema import draw_normal


class SimpleBias(nn.Module):
    """A learned number for each distance; those beyond the last share the last.

    Args:
        max_positions: Distances told apart on each side, 0 included.
        truncated: Draw the start from a normal cut off at two deviations.
    """

    def __init__(self, max_positions: int, *, truncated: bool = False) -> None:
        super().__init__()
        self.max_positions = max_positions
        self.table = nn.Parameter(torch.empty(2 * max_positions - 1))
        draw_normal(self.table, 0.02, truncated)

    def forward(self, reach: int) -> Tensor:
        """Return the numbers (2 reach - 1,)."""
        return self.at(torch.arange(1 - reach, reach, device=self.table.device))

    def at(self, distance: Tensor) -> Tensor:
        """Return the numbers at integer distances key - query, any shape."""
        last = self.max_positions - 1
        return self.table[distance.clamp(-last, last) + last]


class RotaryBias(nn.Module):
    """The product of two learned vectors turned by angles that grow with their positions m and n (half-split pairs).

    (R_m a) . (R_n b) = sum_k (a1 b1 + a2 b2) cos(theta (n - m)) + (a2 b1 - a1 b2) sin(theta (n - m)) with
    theta_k = 10000^{-2k/z}, k = 0, ..., z/2 - 1, a = (a1, a2) and b = (b1, b2).

    Args:
        z_dim: Length z of the vectors, even.
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(z_dim))
        self.b = nn.Parameter(torch.empty(z_dim))
        draw_normal(self.a, 0.02)
        draw_normal(self.b, 0.02)

    def forward(self, reach: int) -> Tensor:
        """Return the numbers (2 reach - 1,)."""
        (a1, a2), (b1, b2) = self.a.chunk(2), self.b.chunk(2)
        index = torch.arange(len(a1), device=self.a.device, dtype=torch.float64)
        theta = torch.exp(index * (-math.log(10000.0) / len(a1)))
        distance = torch.arange(1 - reach, reach, device=self.a.device, dtype=torch.float64)
        angle = distance[:, None] * theta
        return angle.cos().to(self.a) @ (a1 * b1 + a2 * b2) + angle.sin().to(self.a) @ (a2 * b1 - a1 * b2)


def by_rows(numbers: Tensor) -> Tensor:
    """(2 reach - 1,) as a matrix (reach, reach) of query rows and key columns."""
    return numbers.unfold(0, (len(numbers) + 1) // 2, 1).flip(0)


def by_distance(numbers: Tensor, distance: Tensor) -> Tensor:
    """(2 reach - 1,) at integer distances key - query, any shape."""
    return numbers[distance + len(numbers) // 2]
