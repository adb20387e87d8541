"""One step of the selective scan: what a model does for each new token."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_real, check_shape
from ssm_core.opkit.transforms import through_operator
from ssm_core.ops.selective_scan import _in_one_precision
from ssm_core.ops.selective_scan.discretization import METHODS
from ssm_core.ops.selective_state_update import on_torch, reference
from ssm_core.ops.selective_state_update.registered import update


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
    backend: str | None = None,
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
        backend: "reference", "torch" or "triton"; None takes SSM_BACKEND or else, on CUDA tensors of which no
            derivative is asked, one Triton kernel, and plain torch operations everywhere else.

    Returns:
        y (B, D) in the dtype of x, and the state after the step (B, D, N), in float32 at least; differentiable to any
        order, on "triton" once.

    Raises:
        ValueError: Shapes, dtypes, devices or `discretization` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> y, state = selective_state_update(torch.ones(1, 1, 1), *torch.ones(2, 1, 1), *torch.zeros(1, 1, 1),
        ...     torch.ones(1, 1), torch.ones(1, 1))
        >>> y.item(), state.item()
        (2.0, 2.0)
    """
    backend = dispatch.requested("selective_state_update", backend)
    _check(state, x, dt, A, B, C, D, z, dt_bias, discretization)
    tensors = (x, state, dt, A, B, C, D, z, dt_bias)
    with torch.autocast(x.device.type, enabled=False):
        if through_operator(backend, *tensors):
            y, state = update(*_all_real_or_complex(*tensors), dt_softplus, discretization, backend)
            return y, state
        u, gap, A, B, C, D, z, bias, state = _in_one_precision(x, dt, A, B, C, D, z, dt_bias, state)
        run = reference.selective_state_update if backend == "reference" else on_torch.forward
        y, state = run(u, state, gap, A, B, C, D, z, bias, dt_softplus, discretization)
    return y.to(x.dtype), state


def _all_real_or_complex(x, state, dt, A, B, C, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors with A, B, C and the state all complex if one of them is."""
    kept = (state, A, B, C)
    if any(m.is_complex() for m in kept):
        state, A, B, C = (m.to(torch.promote_types(m.dtype, torch.complex64)) for m in kept)
    return x, state, dt, A, B, C, *others


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


def _probe(backend: str) -> Tensor:
    state, x, A = torch.linspace(-1, 1, 12).reshape(2, 2, 3), torch.ones(2, 2), -torch.ones(2, 3)
    B, C = torch.linspace(0, 1, 12).reshape(2, 2, 3)
    return selective_state_update(state, x, x, A, B, C, dt_softplus=True, backend=backend)[0]


dispatch.register("selective_state_update", _probe)
