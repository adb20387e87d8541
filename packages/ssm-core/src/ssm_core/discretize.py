"""From a continuous diagonal system to one step of it.

A diagonal state-space model x' = a x + b u, with u held over a gap dt, becomes x <- a_bar x + gain (b u):

    zero-order hold   a_bar = exp(dt a)                   gain = (exp(dt a) - 1) / a      (Gu et al. 2022, S4D, eq. 3)
    bilinear          a_bar = (1 + dt a/2)/(1 - dt a/2)   gain = dt / (1 - dt a/2)        (Tustin)

Everything is elementwise, so one `a` per state and one `dt` per state or per step broadcast against each other.
"""

from math import factorial

import torch
from torch import Tensor

METHODS = ("zoh", "bilinear")

# Below this |z| the power series of phi_1 replaces expm1(z) / z, whose derivative loses eps / |z|^2 to cancellation.
_SERIES_RADIUS = 0.1


def discretize(a: Tensor, dt: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """One step of x' = a x + b u over a gap dt, as (a_bar, gain): x <- a_bar x + gain (b u).

    Args:
        a: Continuous eigenvalues, real or complex, any shape; in 1 / (unit of dt).
        dt: Gaps, real, broadcastable with `a`. A gap of 0 gives a_bar = 1 and gain = 0, exactly.
        method: "zoh" or "bilinear".

    Returns:
        a_bar and gain, each of the broadcast shape, complex if `a` is. Both are differentiable in `a` and `dt`
        everywhere, a dt = 0 included.

    Raises:
        ValueError: `method` is neither of the two.
    """
    if method == "zoh":
        return zoh(a, dt)
    if method == "bilinear":
        return bilinear(a, dt)
    raise ValueError(f"discretize: method is {method!r}; choose one of {', '.join(map(repr, METHODS))}")


def zoh(a: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold: exact if the input stays constant over the gap. See `discretize` for shapes."""
    z = dt * a
    return torch.exp(z), dt * phi_1(z)


def bilinear(a: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear (Tustin) rule: maps the left half plane onto the unit disc. See `discretize` for shapes."""
    half = 0.5 * dt * a
    scale = 1.0 / (1.0 - half)
    return (1.0 + half) * scale, dt * scale


def phi_1(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, equal to 1 at z = 0; accurate, and so is its derivative, for every real or complex z."""
    return _near_and_far(z, lambda k: 1.0 / factorial(k + 1), lambda far: torch.expm1(far) / far)


def phi_1_slope(z: Tensor) -> Tensor:
    """The derivative of `phi_1`: (exp(z) - phi_1(z)) / z, equal to 1/2 at z = 0."""
    return _near_and_far(
        z, lambda k: (k + 1) / factorial(k + 2), lambda far: (torch.exp(far) - torch.expm1(far) / far) / far
    )


def _near_and_far(z: Tensor, coefficient, quotient) -> Tensor:
    """The series sum_k coefficient(k) z^k inside the radius, quotient(z) outside it."""
    size = z.detach()
    near = (size.real.square() + size.imag.square() if z.is_complex() else size.square()) < _SERIES_RADIUS**2
    # Each branch sees only arguments it can bear: an infinity in the one not taken would reach the gradient as NaN.
    z_near = torch.where(near, z, 0.0)
    z_far = torch.where(near, 1.0, z)
    degree = 12 if z.dtype in (torch.float64, torch.complex128) else 6
    series = torch.full_like(z, coefficient(degree))
    for k in reversed(range(degree)):
        series = series * z_near + coefficient(k)
    return torch.where(near, series, quotient(z_far))
