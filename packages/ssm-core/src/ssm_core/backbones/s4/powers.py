"""What a sequence of L elements needs of the powers of S4's discrete A, in two ways.

Squared again and again, A is a dense matrix: N^3 products a channel and square. Applied to a vector, it is diagonal
plus low rank: O(N) a step, but L steps one after another. Few states and long sequences want the first, many states and
short sequences the second.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.backbones.s4.system import System, apply, as_complex, as_real
from ssm_core.ragged import flip_valid

_STEP = 7000
"""Products of a channel's matrices that take as long as a step of it does: measured on a CPU, at 64 to 256 states."""


class Powers(Protocol):
    """The powers of a discrete A up to the L-th; states and weights are over the reals, as in the module system."""

    length: int

    def cut(self, c: Tensor) -> Tensor:
        """Return (I - A^L)^T c for c (K, H, N)."""
        ...

    def after(self, x: Tensor, steps_b: Tensor) -> Tensor:
        """Return A^steps x for x (B, H, N), each row by its own number of steps, L at most."""
        ...

    def last_state(self, u_blh: Tensor, b: Tensor, lengths_b: Tensor | None) -> Tensor:
        """Return sum_j A^j b u_{last - j} (B, H, N) for inputs u (B, L, H) that are zero behind each row's end."""
        ...

    def echo(self, x: Tensor, c: Tensor) -> Tensor:
        """Return c A^{k+1} x for k < L, that is what a state x (B, H, N) adds to the outputs (B, L, H)."""
        ...


def powers(system: System, length: int) -> Powers:
    """Return the powers of a system's discrete A, in the way that costs less."""
    states = 2 * system.a.shape[1]
    if length * _STEP < states**3 * length.bit_length():
        return Steps(system, length)
    return Squares(system.matrices()[0], length)


class Steps:
    """The discrete A of each channel applied to vectors, one step after another: O(N L).

    Args:
        system: The continuous system.
        length: Longest power asked for, 1 at least.
    """

    def __init__(self, system: System, length: int) -> None:
        d, u, v = system.woodbury()
        self.d, self.u, self.v = 2 * d - 1, u, 2 * v  # A = 2 W - I
        self.length = length

    def cut(self, c: Tensor) -> Tensor:
        """See :class:`Powers`."""
        return c - self._transposed(c, self.length)[-1]

    def after(self, x: Tensor, steps_b: Tensor) -> Tensor:
        """See :class:`Powers`."""
        z = as_complex(x)
        d, u, v = (each.to(z.dtype) for each in (self.d, self.u, self.v))
        for step in range(self.length):
            z = torch.where((step < steps_b)[:, None, None], apply(d, u, v, z), z)
        return as_real(z)

    def last_state(self, u_blh: Tensor, b: Tensor, lengths_b: Tensor | None) -> Tensor:
        """See :class:`Powers`."""
        z = [as_complex(b)]
        while len(z) < self.length:
            z.append(apply(self.d, self.u, self.v, z[-1]))
        return torch.einsum(
            "blh,lhn->bhn", flip_valid(u_blh, lengths_b), as_real(torch.stack(z)).to(u_blh.dtype)
        )

    def echo(self, x: Tensor, c: Tensor) -> Tensor:
        """See :class:`Powers`."""
        rows = torch.stack(self._transposed(c, self.length)).to(x.dtype)
        return torch.einsum("bhn,lhn->blh", x, rows)

    def _transposed(self, c: Tensor, steps: int) -> list[Tensor]:
        """Return A^T c, (A^T)^2 c, ... for c (..., H, N) over the reals."""
        d, found = self.d.conj(), [as_complex(c)]
        for _ in range(steps):
            found.append(apply(d, self.v, self.u, found[-1]))
        return [as_real(each) for each in found[1:]]


class Squares:
    """The discrete A of each channel to the powers 1, 2, 4, ...: O(N^3 log L) for a few large products.

    Args:
        a: Matrices (H, N, N).
        length: Longest power asked for, 1 at least.
    """

    def __init__(self, a: Tensor, length: int) -> None:
        self.squares = [a]
        while 2 ** len(self.squares) <= length:
            self.squares.append(self.squares[-1] @ self.squares[-1])
        self.length = length
        self.chunk = 0  # exponent of a power of two near the root of the length
        while 4**self.chunk < length:
            self.chunk += 1

    def cut(self, c: Tensor) -> Tensor:
        """See :class:`Powers`."""
        turned, left = c, self.length
        for square in self.squares:
            if left % 2:
                turned = torch.einsum("hmn,khm->khn", square, turned)
            left //= 2
        return c - turned

    def after(self, x: Tensor, steps_b: Tensor) -> Tensor:
        """See :class:`Powers`."""
        for bit, square in enumerate(self.squares):
            moved = torch.einsum("hmn,bhn->bhm", square.to(x.dtype), x)
            x = torch.where((steps_b // 2**bit % 2 == 1)[:, None, None], moved, x)
        return x

    def series(self, b: Tensor) -> Tensor:
        """Return b, A b, A^2 b, ... for b (H, N), as many as a chunk is long: (H, R, N)."""
        columns = b[..., None]
        for square in self.squares[: self.chunk]:
            columns = torch.cat([columns, square @ columns], -1)
        return columns.mT

    def transposed_series(self, c: Tensor) -> Tensor:
        """Return c, A^T c, (A^T)^2 c, ...: (H, R, N)."""
        rows = c[:, None]
        for square in self.squares[: self.chunk]:
            rows = torch.cat([rows, rows @ square], 1)
        return rows

    def last_state(self, u_blh: Tensor, b: Tensor, lengths_b: Tensor | None) -> Tensor:
        """See :class:`Powers`."""
        fine = self.series(b).to(u_blh.dtype)
        columns = fine.shape[1]
        rows = -(-u_blh.shape[1] // columns)
        backwards = F.pad(flip_valid(u_blh, lengths_b), (0, 0, 0, rows * columns - u_blh.shape[1]))
        x = torch.einsum("bqrh,hrn->bqhn", backwards.unflatten(1, (rows, columns)), fine)
        for square in self.squares[self.chunk :]:
            if x.shape[1] == 1:
                break
            x = F.pad(x, (0, 0, 0, 0, 0, x.shape[1] % 2))
            x = x[:, ::2] + torch.einsum("hmn,bqhn->bqhm", square.to(x.dtype), x[:, 1::2])
        return x[:, 0]

    def echo(self, x: Tensor, c: Tensor) -> Tensor:
        """See :class:`Powers`."""
        fine = self.transposed_series(torch.einsum("hmn,hm->hn", self.squares[0], c)).to(x.dtype)
        chunks = x[:, None]
        for square in self.squares[self.chunk :]:
            if chunks.shape[1] * fine.shape[1] >= self.length:
                break
            chunks = torch.cat([chunks, torch.einsum("hmn,bqhn->bqhm", square.to(x.dtype), chunks)], 1)
        return torch.einsum("bqhn,hrn->bqrh", chunks, fine).flatten(1, 2)[:, : self.length]
