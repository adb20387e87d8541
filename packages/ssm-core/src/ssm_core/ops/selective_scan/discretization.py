"""One step of the selective scan from its gap: a_bar and gain, and their slopes for the backward pass."""

import torch
from torch import Tensor

from ssm_core.discretize import METHODS as HOLDS
from ssm_core.discretize import discretize, phi_1_slope

METHODS = ("euler", *HOLDS)
"""``euler`` is Mamba's: exp(dt A) for the state, but plain dt for the input; the others as in `ssm_core.discretize`."""


def factors(A: Tensor, dt: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """(a_bar, gain), broadcast of dt and A; the gain of ``euler`` is dt itself."""
    return (torch.exp(dt * A), dt) if method == "euler" else discretize(A, dt, method)


def slopes(
    A: Tensor, dt: Tensor, a_bar: Tensor, method: str
) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """(e, e_gain, v): d a_bar = e (A d dt + dt d A) and d gain = e_gain d dt + v d A."""
    if method == "euler":
        return a_bar, 1.0, 0.0
    if method == "zoh":
        return a_bar, a_bar, dt.square() * phi_1_slope(dt * A)
    e = (1.0 - 0.5 * dt * A).reciprocal().square()
    return e, e, 0.5 * dt.square() * e
