"""A Lyapunov function of a linear recurrence e_k = A e_{k-1} + d_k, and what it says of the error.

V = e* P e with A* P A - P = -Q, Q = I. Then, with e the error before a step and d what enters in it,

    V_k - V_{k-1} = -|e|^2 + 2 Re(e* A* P d) + d* P d <= -|e|^2 + 2 |A* P| |e| |d| + |P| |d|^2,

which is below zero whenever |d| < kappa |e|, kappa = (-|A* P| + sqrt(|A* P|^2 + |P|)) / |P|, norms of matrices being
spectral. The state falls apart into blocks that know nothing of each other: single entries if A is diagonal, channels
if it is dense. A diagonal A that changes with time is taken by the largest modulus of each entry, for which all of
this holds a fortiori.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def spectral_radius(a: Tensor, *, dense: bool) -> float:
    """Return the largest modulus of an eigenvalue of diagonal entries, or of matrices (H, N, N)."""
    return float((torch.linalg.eigvals(a) if dense else a).abs().max())


@dataclass(frozen=True)
class Lyapunov:
    """P of a stable recurrence, in G blocks of M numbers.

    Attributes:
        a: Moduli of the diagonal (G,), M = 1, or matrices (G, M, M), float64.
        p: P, of the same shape.
    """

    a: Tensor
    p: Tensor

    @classmethod
    def of(cls, a: Tensor, *, dense: bool) -> Lyapunov | None:
        """Solve for P; None if the spectral radius is 1 or more, for then there is none.

        Args:
            a: Diagonal entries (G,), real or complex, or real matrices (G, M, M).
            dense: Which of the two.
        """
        if not spectral_radius(a, dense=dense) < 1:
            return None
        if not dense:
            moduli = a.abs()
            return cls(moduli, 1 / ((1 - moduli) * (1 + moduli)))
        from scipy.linalg import solve_discrete_lyapunov

        one = torch.eye(a.shape[1], dtype=a.dtype).numpy()
        # It solves A X A^H - X + Q = 0, so it is given the transposes.
        p = torch.stack([torch.from_numpy(solve_discrete_lyapunov(block.mT.numpy(), one)) for block in a])
        return cls(a, (p + p.mT) / 2)

    @property
    def dense(self) -> bool:
        """Whether blocks are matrices."""
        return self.a.ndim == 3

    def spread(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest and the least eigenvalue of P and the norm of A* P in each block, (G,) each."""
        if not self.dense:
            return self.p, self.p, self.a * self.p
        eigenvalues = torch.linalg.eigvalsh(self.p)
        coupling = torch.linalg.matrix_norm(self.a.mT @ self.p, ord=2)
        return eigenvalues[:, -1], eigenvalues[:, 0], coupling

    def kappa(self) -> float:
        """Return the event threshold of the whole system: V falls whenever |d| < kappa |e|."""
        most, _, coupling = self.spread()
        return float(threshold(coupling.max(), most.max()))

    def energy(self, e: Tensor) -> Tensor:
        """Return V (L,) of errors (L, G), or (L, G, M) if dense."""
        if not self.dense:
            return (self.p * e.abs().square()).sum(-1)
        return torch.einsum("lgm,gmn,lgn->l", e, self.p, e)

    def level(self, drive: float) -> float:
        """Return what V never exceeds from e = 0, given sup |d|: |P| (sup |d| / kappa)^2.

        Where |e| is larger than sup |d| / kappa, V falls; where it is not, V_k is at most this.
        """
        return float(self.spread()[0].max()) * (drive / self.kappa()) ** 2

    def bound(self, drive: float) -> float:
        """Return what |e| never exceeds from e = 0, given sup |d|: sqrt(cond P) sup |d| / kappa.

        The root is needed. Without it this bounds where V is sure to fall, not where |e| stays.
        """
        most, least, _ = self.spread()
        return float((most.max() / least.min()).sqrt() * drive / self.kappa())

    def bound_by_block(self, drive: Tensor) -> float:
        """Return the same from sup |d| of each block (G,), block by block: tighter, for not all of them are slow."""
        most, least, coupling = self.spread()
        return float(((most / least).sqrt() * drive / threshold(coupling, most)).square().sum().sqrt())


def threshold(coupling: Tensor, most: Tensor) -> Tensor:
    """Return kappa from |A* P| and |P|, in the form that loses no digits; Q = I."""
    return 1 / (coupling + (coupling.square() + most).sqrt())
