"""Diagonal systems with fixed A, given intervals and data: their states, and Proposition 1 about them.

Symbols as in the paper: a (N,) the diagonal of A, D_l the interval of element l, h_l the state after it. Element n is
missing in one of two ways: *removed*, with its interval, or *masked*, x_n = 0 with the interval kept. The paper's
proof needs the second (only then do the terms before n cancel, eq. 24); its conclusion holds for both. All in float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Definition = Literal["removed", "masked"]
DEFINITIONS: tuple[Definition, ...] = ("removed", "masked")


class Systems(NamedTuple):
    """S systems with a sequence of L elements each.

    Attributes:
        a_sn: Diagonal of A (S, N), float64 or complex128, with Re a <= 0.
        b_sln: B_l x_l, what each element puts in (S, L, N).
        interval_sl: D_l (S, L), float64, at least 0.
    """

    a_sn: Tensor
    b_sln: Tensor
    interval_sl: Tensor


def phi(z: Tensor) -> Tensor:
    """Return (e^z - 1) / z, 1 at z = 0."""
    return torch.where(z == 0, 1, torch.expm1(z) / torch.where(z == 0, 1, z))


def states(systems: Systems) -> Tensor:
    """Return h_0 = 0, h_1, ..., h_L (S, L + 1, N): eqs. (2a) and (3), zero-order hold."""
    h = torch.zeros_like(systems.a_sn)
    out = [h]
    for b_sn, interval_s in zip(systems.b_sln.unbind(1), systems.interval_sl.unbind(1), strict=True):
        z = systems.a_sn * interval_s[:, None]
        h = torch.exp(z) * h + interval_s[:, None] * phi(z) * b_sn
        out.append(h)
    return torch.stack(out, 1)


def without(systems: Systems, n: int, definition: Definition) -> Systems:
    """Return the systems on sequences that lack element n, counted from 0."""
    a_sn, b_sln, interval_sl = systems
    if definition == "removed":
        kept = [index for index in range(b_sln.shape[1]) if index != n]
        return Systems(a_sn, b_sln[:, kept], interval_sl[:, kept])
    b_sln = b_sln.clone()
    b_sln[:, n] = 0
    return Systems(a_sn, b_sln, interval_sl)


def with_interval(systems: Systems, n: int, interval: float) -> Systems:
    """Return the systems with D_n = interval and all else as it was."""
    interval_sl = systems.interval_sl.clone()
    interval_sl[:, n] = interval
    return systems._replace(interval_sl=interval_sl)


def direction(systems: Systems, n: int, definition: Definition) -> Tensor:
    """Return v (S, N), which does not depend on D_n: h_L - h_L^(n) = D_n phi(D_n A) v, exactly.

    v = e^(TA) (A h_(n-1) + B_n x_n) if element n is removed, e^(TA) B_n x_n if it is masked, with T the time from
    after n to the end. To first order in D_n the difference is D_n v: the proposition.
    """
    after_s = systems.interval_sl[:, n + 1 :].sum(1)
    at_n = systems.b_sln[:, n]
    if definition == "removed":
        at_n = systems.a_sn * states(systems)[:, n] + at_n
    return torch.exp(systems.a_sn * after_s[:, None]) * at_n


def bound(systems: Systems, interval: float) -> Tensor:
    """Return D_n max |a| / 2 (S,): how far ||h_L - h_L^(n)|| / (D_n ||v||) can be from 1, since Re a <= 0."""
    return interval * systems.a_sn.abs().amax(1) / 2


def draw(count: int, size: int, length: int, eigenvalues: str, generator: torch.Generator) -> Systems:
    """Draw systems: rates log-uniform in [0.05, 5], frequencies in [-10, 10] if complex, intervals in [0.02, 0.2]."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    a = -(0.05 * 100 ** uniform(0, 1, count, size))
    b = normal(count, length, size) * normal(count, length, 1)
    if eigenvalues == "complex":
        a = torch.complex(a, uniform(-10, 10, count, size))
        b = torch.complex(b, torch.zeros_like(b))
    return Systems(a, b, uniform(0.02, 0.2, count, length))
