"""The diagonal multi-input, multi-output state-space model of S5, with equal or irregular gaps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.discretize import METHODS, discretize
from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_cu_seqlens, check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.packing import state_shape
from ssm_core.ops.diagonal_ssm import autograd as per_step
from ssm_core.ops.diagonal_ssm import reference
from ssm_core.ops.linear_scan import autograd as equal_gaps


def diagonal_ssm(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    discretization: str = "zoh",
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run x_t = a_bar_t x_{t-1} + gain_t (B u_t), y_t = 2 Re(C x_t) + D u_t (Smith et al. 2023, S5, eqs. 2 and 6).

    The N complex states stand for N conjugate pairs, hence the factor 2. `a_bar` and `gain` come from A and dt by
    `ssm_core.discretize`. With equal gaps the gain is folded into B. With a gap per step, discretisation and scan are
    one pass on "numba"; "triton" discretises with torch calls and scans by a kernel, "torch" does both in torch calls,
    and all three discretise again in backward: what is kept is O(B L (H + N)).

    Args:
        u: Inputs, real (B, L, H), any strides, L = 0 included.
        dt: Gap before each step, real: (N,) for equal gaps, (B, L, N) for a gap per step (a step with gap 0 leaves
            the state as it was). In the unit of 1 / A.
        A: Continuous eigenvalues (N,), complex or real; 0 is allowed.
        B: Input matrix (N, H), complex or real.
        C: Output matrix (H, N), complex or real.
        D: Feed-through (H,), real, or None.
        initial_state: x before the first step, (B, N); (S, N) with `cu_seqlens`; zero if None.
        discretization: "zoh" or "bilinear".
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        y (B, L, H) in the dtype of u, and the final state, complex (B, N) or (S, N); both differentiable (with a
        gap per step once, on "reference" to any order). Arithmetic and the state are in float32 at least, or
        float64 if any argument is, also under autocast.

    Raises:
        ValueError: Shapes, dtypes, devices, offsets or `discretization` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> u, A = torch.ones(1, 3, 1), torch.tensor([0j])
        >>> y, x = diagonal_ssm(u, torch.ones(1), A, torch.ones(1, 1), torch.ones(1, 1))
        >>> y.flatten().tolist(), x.item()
        ([2.0, 4.0, 6.0], (3+0j))
    """
    backend = dispatch.requested("diagonal_ssm", backend)
    _check(u, dt, A, B, C, D, initial_state, discretization, cu_seqlens)
    with torch.autocast(u.device.type, enabled=False):
        y, x = _run(u, dt, A, B, C, D, initial_state, discretization, cu_seqlens, backend)
    return y.to(u.dtype), x


def _run(u, dt, A, B, C, D, initial_state, method: str, cu_seqlens, backend: str) -> tuple[Tensor, Tensor]:
    """The model on checked inputs, in one precision."""
    real, wide = torch.float32, torch.complex64
    if compute_dtype(u, dt, A, B, C, D, initial_state) in (torch.float64, torch.complex128):
        real, wide = torch.float64, torch.complex128
    u, dt, D = u.to(real), dt.to(real), None if D is None else D.to(real)
    A, B, C = A.to(wide), B.to(wide), C.to(wide)
    x = None if initial_state is None else initial_state.to(wide)
    if (
        backend == "reference" or not B.numel()
    ):  # no gradient passes a view of complex numbers where there are none
        return reference.diagonal_ssm(u, dt, A, B, C, D, x, discretization=method, cu_seqlens=cu_seqlens)
    if dt.ndim == 1:
        a_bar, gain = discretize(A, dt, method)
        bu = into_states(u, gain[:, None] * B)
        x_bln, last = equal_gaps.scan(a_bar, bu, x, cu_seqlens, False, backend)
    else:
        x_bln, last = per_step.scan(dt, A, into_states(u, B), x, cu_seqlens, method, backend)
    y = out_of_states(x_bln, C)
    return y if D is None else torch.addcmul(y, u, D), last


def into_states(u: Tensor, B: Tensor) -> Tensor:
    """B u for real u as one real matrix product, its columns Re and Im of each state in turn."""
    weight = torch.view_as_real(B.resolve_conj()).transpose(1, 2).flatten(0, 1)  # (2N, H)
    return torch.view_as_complex(F.linear(u, weight).unflatten(-1, (-1, 2)))


def out_of_states(x: Tensor, C: Tensor) -> Tensor:
    """2 Re(C x) as one real matrix product."""
    weight = torch.view_as_real(2 * C.conj()).flatten(1)  # (H, 2N): 2 Re c, -2 Im c
    return F.linear(torch.view_as_real(x).flatten(-2), weight)


def _check(u, dt, A, B, C, D, initial_state, method: str, cu_seqlens) -> None:
    op = "diagonal_ssm"
    if method not in METHODS:
        raise ValueError(f"{op}: discretization is {method!r}; choose one of {', '.join(map(repr, METHODS))}")
    if u.ndim != 3 or A.ndim != 1:
        raise ValueError(
            f"{op}: u and A have shapes {tuple(u.shape)} and {tuple(A.shape)}, expected (B, L, H) and (N,)"
        )
    check_numeric(op, u=u, dt=dt, A=A, B=B, C=C, D=D, initial_state=initial_state)
    check_real(op, u=u, dt=dt, D=D)
    (batch, length, width), (states,) = u.shape, A.shape
    check_shape(op, "dt", dt, (states,), (batch, length, states), letters="(N,) or (B, L, N)")
    check_shape(op, "B", B, (states, width), letters="(N, H)")
    check_shape(op, "C", C, (width, states), letters="(H, N)")
    if D is not None:
        check_shape(op, "D", D, (width,), letters="(H,)")
    if cu_seqlens is not None:
        check_cu_seqlens(op, cu_seqlens, batch, u.device)
    if initial_state is not None:
        letters = "(B, N)" if cu_seqlens is None else "(S, N)"
        check_shape(
            op, "initial_state", initial_state, (state_shape(u, cu_seqlens)[0], states), letters=letters
        )


def _probe(backend: str) -> Tensor:
    u, dt, A = torch.ones(1, 3, 1), torch.full((1, 3, 2), 0.5), torch.tensor([-1 + 2j, -0.5 + 1j])
    return diagonal_ssm(u, dt, A, torch.ones(2, 1), torch.ones(1, 2), backend=backend)[0]


dispatch.register("diagonal_ssm", _probe)
