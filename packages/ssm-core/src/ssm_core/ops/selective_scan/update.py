"""One step of the selective scan: what a model does for each new token."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.opkit.checks import check_numeric, check_real, check_shape
from ssm_core.ops.selective_scan import _in_one_precision
from ssm_core.ops.selective_scan.discretization import METHODS, factors


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    discretization: str = "euler",
) -> tuple[Tensor, Tensor]:
    """Advance `ssm_core.ops.selective_scan` by one step; the state given is left as it is.

    Args:
        state: State before the step (B, D, N), real or complex.
        x: Input of the step, real (B, D); the `u` of the scan.
        dt: Gap before it, real (B, D).
        A: Continuous eigenvalues (D, N), real or complex.
        B: Input weights (B, N), (B, G, N), or (1, D, N) where they are the same at every step.
        C: Output weights, of the same forms.
        D: Feed-through (D,), or None.
        z: Gate (B, D), or None.
        dt_bias: Added to dt (D,), or None.
        dt_softplus: Take softplus(dt + dt_bias) as the gap.
        discretization: "euler", "zoh" or "bilinear".

    Returns:
        y (B, D) in the dtype of x, and the state after the step (B, D, N), in float32 at least. Plain torch
        operations: differentiable to any order.

    Raises:
        ValueError: Shapes, dtypes, devices or `discretization` do not fit; the message names the argument.

    Example:
        >>> y, state = selective_state_update(torch.ones(1, 1, 1), *torch.ones(2, 1, 1), *torch.zeros(1, 1, 1),
        ...     torch.ones(1, 1), torch.ones(1, 1))
        >>> y.item(), state.item()
        (2.0, 2.0)
    """
    _check(state, x, dt, A, B, C, D, z, dt_bias, discretization)
    with torch.autocast(x.device.type, enabled=False):
        operands = _in_one_precision(x, dt, A, B, C, D, z, dt_bias, state)
        u, gap, A, B, C, D, z, bias, state = operands
        gap = gap if bias is None else gap + bias
        gap = F.softplus(gap) if dt_softplus else gap
        B, C = (_by_channel(m, A.shape[0]) for m in (B, C))
        a_bar, gain = factors(A, gap[..., None], discretization)
        state = a_bar * state + gain * B * u[..., None]  # (B, D, N)
        y = (C * state).sum(-1)
        y = 2.0 * y.real if y.is_complex() else y
        y = y if D is None else y + D * u
        y = y if z is None else y * F.silu(z)
    return y.to(x.dtype), state


def _by_channel(m: Tensor, width: int) -> Tensor:
    """B or C, to broadcast with (B, D, N)."""
    return m[:, None] if m.ndim == 2 else m.repeat_interleave(width // m.shape[1], 1)


def _check(state, x, dt, A, B, C, D, z, dt_bias, method: str) -> None:
    op = "selective_state_update"
    if method not in METHODS:
        raise ValueError(f"{op}: discretization is {method!r}; choose one of {', '.join(map(repr, METHODS))}")
    if x.ndim != 2 or A.ndim != 2 or A.shape[0] != x.shape[1]:
        raise ValueError(
            f"{op}: x and A have shapes {tuple(x.shape)} and {tuple(A.shape)}, expected (B, D) and (D, N)"
        )
    check_numeric(op, x=x, state=state, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    check_real(op, x=x, dt=dt, D=D, z=z, dt_bias=dt_bias)
    (batch, width), n = x.shape, A.shape[1]
    check_shape(op, "state", state, (batch, width, n), letters="(B, D, N)")
    check_shape(op, "dt", dt, (batch, width), letters="(B, D)")
    for name, m in (("B", B), ("C", C)):
        groups = m.shape[1] if m.ndim == 3 else 1
        if groups < 1 or width % groups:
            raise ValueError(
                f"{op}: {name} has {groups} groups, which do not divide the {width} channels of x"
            )
        forms = ((batch, n), (batch, groups, n), (1, width, n))
        check_shape(op, name, m, *forms, letters="(B, N), (B, G, N) or (1, D, N)")
    for name, vector in (("D", D), ("dt_bias", dt_bias)):
        if vector is not None:
            check_shape(op, name, vector, (width,), letters="(D,)")
    if z is not None:
        check_shape(op, "z", z, (batch, width), letters="(B, D)")
