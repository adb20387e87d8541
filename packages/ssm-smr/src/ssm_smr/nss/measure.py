"""The error between two runs of one recurrence, and how much of its bounds it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_core.recurrence import Recurrence
from ssm_smr.nss.lyapunov import Lyapunov, spectral_radius


@dataclass(frozen=True)
class Measured:
    """One row on two grids: e_k = x~_k - x_k, and d_k = e_k - A_k e_{k-1}, all that enters the error at step k.

    A_k is that of the nominal run. If it depends on the input or the gaps, what its change does to the state is in d_k
    too, so that nothing is left out or linearised.

    Attributes:
        error: |e_k| (L,).
        drive: |d_k| (L,).
        blocks: |d_k| of each block (L, G).
        size: sup |x_k| of the nominal run.
        radius: Spectral radius of A, the largest over the nominal run if it changes.
        eigenvalues: Of A, complex (E,).
        lyapunov: The Lyapunov function, None if there is none.
        energy: V_k (L,), None likewise.
        dense: Whether A is dense.
        varies: Whether A changes from element to element.
    """

    error: Tensor
    drive: Tensor
    blocks: Tensor
    size: float
    radius: float
    eigenvalues: Tensor
    lyapunov: Lyapunov | None
    energy: Tensor | None
    dense: bool
    varies: bool

    def bounds(self) -> dict[str, float | None]:
        """Return what |e_k| cannot exceed, by name; None where there is no such bound."""
        if self.lyapunov is None:
            return {"bound_lyapunov": None, "bound_diagonal": None, "bound_by_mode": None}
        drive = float(self.drive.max())
        return {
            "bound_lyapunov": self.lyapunov.bound(drive),
            "bound_diagonal": None if self.dense else drive / (1 - self.radius),
            "bound_by_mode": self.lyapunov.bound_by_block(self.blocks.amax(0)),
        }

    def tightest(self) -> float | None:
        """Return the least of the bounds, None if there is none."""
        return min((bound for bound in self.bounds().values() if bound is not None), default=None)

    def triggered(self) -> float | None:
        """Return the share of steps at which |d_k|, not 0, reaches kappa |e_{k-1}|, so that V may grow.

        None if there is no such threshold, or no step.
        """
        if self.lyapunov is None or len(self.drive) < 2:
            return None
        d, e = self.drive[1:], self.error[:-1]
        return float(((d > 0) & (d >= self.lyapunov.kappa() * e)).double().mean())

    def figures(self) -> dict[str, Any]:
        """Return all of it as numbers by name."""
        bound, worst = self.tightest(), float(self.error.max())
        return {
            "radius": self.radius,
            "kappa": None if self.lyapunov is None else self.lyapunov.kappa(),
            "sup_d": float(self.drive.max()),
            "sup_e": worst,
            "sup_e_relative": worst / self.size if self.size else None,
            **self.bounds(),
            "bound_used": worst / bound if bound else None,
            "triggered": self.triggered(),
        }


def measure(nominal: Recurrence, perturbed: Recurrence, like: Measured | None = None) -> Measured:
    """Compare two runs of one row, element by element as far as the shorter goes.

    Args:
        nominal: On the nominal grid, its batch of size 1.
        perturbed: On the perturbed grid.
        like: What was measured of another row of the same recurrence: spares solving for P again if A is fixed
            and given once, not with each element, where gaps may have made it another.
    """
    one, two = nominal.wide(), perturbed.wide()
    length = min(one.d.shape[1], two.d.shape[1])
    x, moved = both(one, two, length).states()
    e = moved - x
    before = torch.cat([torch.zeros_like(e[:1]), e[:-1]])
    each = not one.dense and one.a.ndim == one.d.ndim
    a = one.a[0, :length] if each else one.a
    varies = each and bool((a != a[:1]).any())
    a = a[0] if each and not varies else a
    if one.dense:
        d, worst = e - torch.einsum("gmn,lgn->lgm", a, before), a
    else:
        d, worst = (e - a * before).flatten(1), largest(a, e.shape, varies=varies)
        e = e.flatten(1)
    if like is None or each:
        lyapunov = Lyapunov.of(worst, dense=one.dense)
        eigenvalues = torch.linalg.eigvals(a) if one.dense else a
        radius = spectral_radius(worst, dense=one.dense)
    else:
        lyapunov, eigenvalues, radius = like.lyapunov, like.eigenvalues, like.radius
    return Measured(
        error=norm(e),
        drive=norm(d),
        blocks=d.norm(dim=-1) if one.dense else d.abs(),
        size=float(norm(x).max()),
        radius=radius,
        eigenvalues=eigenvalues.flatten().to(torch.complex128),
        lyapunov=lyapunov,
        energy=None if lyapunov is None else lyapunov.energy(e),
        dense=one.dense,
        varies=varies,
    )


def both(one: Recurrence, two: Recurrence, length: int) -> Recurrence:
    """Return two runs of a row through one layer as one of two rows: half the steps in Python."""
    d = torch.cat([one.d[:, :length], two.d[:, :length]])
    if one.dense or max(one.a.ndim, two.a.ndim) < d.ndim:
        return Recurrence(one.a, d, one.dense)
    a = [run.a[:, :length] if run.a.ndim == d.ndim else run.a for run in (one, two)]
    return Recurrence(torch.cat([each.expand(1, *d.shape[1:]) for each in a]), d)


def largest(a: Tensor, shape: torch.Size, *, varies: bool) -> Tensor:
    """Return the moduli (G,) of diagonal entries, stretched to states (L, *F), the largest over time if they vary."""
    moduli = a.abs().amax(0) if varies else a.abs()
    return moduli.expand(shape[1:]).flatten()


def norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of everything but the first axis, (L,)."""
    return x.flatten(1).norm(dim=1)
