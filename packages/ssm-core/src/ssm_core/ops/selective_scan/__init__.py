"""The selective scan of Mamba: one diagonal state-space model a channel, its gap, B and C given for every step."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import (
    check_cu_seqlens,
    check_numeric,
    check_real,
    check_shape,
    compute_dtype,
)
from ssm_core.ops.selective_scan import core, reference
from ssm_core.ops.selective_scan.discretization import METHODS


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    *,
    discretization: str = "euler",
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run x_t = a_bar_t x_{t-1} + gain_t B_t u_t, y_t = C_t x_t + D u_t in every channel (Gu and Dao 2023, eq. 2).

    With complex A the N states stand for N conjugate pairs and y_t = 2 Re(C_t x_t) + D u_t. Nothing of size
    (B, L, D, N) is ever stored: memory is O(B L D (1 + N / 32)), the states being computed again for the gradients from
    every 32nd. On "triton" the gradients of B and C, where these change with time, need (D / 16, B L, N) each besides.

    Args:
        u: Inputs, real (B, L, D), any strides, L = 0 included.
        dt: Gap before each step, real (B, L, D), in the unit of 1 / A. A gap of 0 leaves the state as it was.
        A: Continuous eigenvalues (D, N), real or complex.
        B: Input weights (D, N), (B, L, N), or (B, L, G, N): channel d belongs to group d // (D / G).
        C: Output weights, of the same forms.
        D: Feed-through (D,), real, or None.
        z: Gate (B, L, D): y is multiplied by silu(z); or None.
        dt_bias: Added to dt (D,), or None.
        dt_softplus: Take softplus(dt + dt_bias) as the gap.
        initial_state: x before the first step, (B, D, N); (S, D, N) with `cu_seqlens`; zero if None.
        discretization: "euler": a_bar = exp(dt A), gain = dt, as Mamba has it; "zoh" or "bilinear" as in
            `ssm_core.discretize`.
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        y (B, L, D) in the dtype of u, and the final state (B, D, N) or (S, D, N), complex if A, B, C or the initial
        state is; both differentiable once (on "reference" to any order). Arithmetic and the state are in float32
        at least, or float64 if any argument is, also under autocast.

    Raises:
        ValueError: Shapes, dtypes, devices, offsets or `discretization` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> u, dt, A = torch.ones(1, 3, 1), torch.ones(1, 3, 1), torch.zeros(1, 1)
        >>> y, x = selective_scan(u, dt, A, torch.ones(1, 1), torch.ones(1, 1))
        >>> y.flatten().tolist(), x.item()
        ([1.0, 2.0, 3.0], 3.0)
    """
    backend = dispatch.requested("selective_scan", backend)
    _check(u, dt, A, B, C, D, z, dt_bias, initial_state, discretization, cu_seqlens)
    with torch.autocast(u.device.type, enabled=False):
        *operands, bias, state = _in_one_precision(u, dt, A, B, C, D, z, dt_bias, initial_state)
        y, x = _run(operands, bias, dt_softplus, state, discretization, cu_seqlens, backend)
    return y.to(u.dtype), x


def _run(operands: Sequence[Any], bias, softplus: bool, state, method: str, cu_seqlens, backend: str):
    """What is elementwise round the scan is done here in torch calls: their memory is O(B L D)."""
    u, dt, A, B, C, D, z = operands
    dt = dt if bias is None else dt + bias
    dt = F.softplus(dt) if softplus else dt
    B, C = (m[:, :, None] if m.ndim == 3 else m for m in (B, C))
    if backend == "reference":
        tensors = (u, dt, A, B, C, D, z, state)
        return reference.selective_scan(*tensors, discretization=method, cu_seqlens=cu_seqlens)
    y, x = core.scan(u, dt, A, B, C, state, cu_seqlens, method, backend)
    y = y if D is None else torch.addcmul(y, u, D)
    return (y if z is None else y * F.silu(z)), x


def _in_one_precision(u, dt, A, B, C, D, z, dt_bias, initial_state) -> tuple[Any, ...]:
    """Real arguments as float32 or float64; A, B, C and the state complex if one of them is."""
    real, wide = torch.float32, torch.complex64
    if compute_dtype(u, dt, A, B, C, D, z, dt_bias, initial_state) in (torch.float64, torch.complex128):
        real, wide = torch.float64, torch.complex128
    is_complex = any(m is not None and m.is_complex() for m in (A, B, C, initial_state))
    kinds = [real, real, *[wide if is_complex else real] * 3, real, real, real, wide if is_complex else real]
    given = (u, dt, A, B, C, D, z, dt_bias, initial_state)
    return tuple(None if x is None else x.to(kind) for x, kind in zip(given, kinds, strict=True))


def _check(u, dt, A, B, C, D, z, dt_bias, initial_state, method: str, cu_seqlens) -> None:
    op = "selective_scan"
    if method not in METHODS:
        raise ValueError(f"{op}: discretization is {method!r}; choose one of {', '.join(map(repr, METHODS))}")
    if u.ndim != 3 or A.ndim != 2 or A.shape[0] != u.shape[2]:
        raise ValueError(
            f"{op}: u and A have shapes {tuple(u.shape)} and {tuple(A.shape)}, expected (B, L, D) and (D, N)"
        )
    check_numeric(op, u=u, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, initial_state=initial_state)
    check_real(op, u=u, dt=dt, D=D, z=z, dt_bias=dt_bias)
    (batch, length, width), n = u.shape, A.shape[1]
    check_shape(op, "dt", dt, (batch, length, width), letters="(B, L, D)")
    groups = {_groups(op, name, m, batch, length, width, n) for name, m in (("B", B), ("C", C))} - {1}
    if len(groups) > 1:
        raise ValueError(
            f"{op}: B and C have {' and '.join(map(str, sorted(groups)))} groups, expected as many, or 1"
        )
    for name, vector in (("D", D), ("dt_bias", dt_bias)):
        if vector is not None:
            check_shape(op, name, vector, (width,), letters="(D,)")
    if z is not None:
        check_shape(op, "z", z, (batch, length, width), letters="(B, L, D)")
    if cu_seqlens is not None:
        check_cu_seqlens(op, cu_seqlens, batch, u.device)
    if initial_state is not None:
        rows, letters = (batch, "(B, D, N)") if cu_seqlens is None else (cu_seqlens.shape[0] - 1, "(S, D, N)")
        check_shape(op, "initial_state", initial_state, (rows, width, n), letters=letters)


def _groups(op: str, name: str, m: Tensor, batch: int, length: int, width: int, n: int) -> int:
    """How many groups of channels B or C tells apart; 1 for those that are the same at every step."""
    groups = m.shape[2] if m.ndim == 4 else 1
    if groups < 1 or width % groups:
        raise ValueError(f"{op}: {name} has {groups} groups, which do not divide the {width} channels of u")
    allowed = ((width, n), (batch, length, n), (batch, length, groups, n))
    check_shape(op, name, m, *allowed, letters="(D, N), (B, L, N) or (B, L, G, N)")
    return groups


def _probe(backend: str) -> Tensor:
    u, dt = torch.linspace(-1, 1, 12).reshape(1, 6, 2), torch.full((1, 6, 2), 0.5)
    A, B = torch.tensor([[-1.0, -0.5, 0.0], [-2.0, -0.1, -0.2]]), torch.linspace(0, 1, 18).reshape(1, 6, 3)
    return selective_scan(u, dt, A, B, B, backend=backend)[0]


dispatch.register("selective_scan", _probe)
