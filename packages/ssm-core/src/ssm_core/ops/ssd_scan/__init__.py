"""The state-space dual of Mamba-2: a matrix-valued state per head, decayed by a scalar."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_cu_seqlens, check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.operator import operator
from ssm_core.ops.ssd_scan import reference

_OP = "ssd_scan"


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int = 64,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = (S_t C_t + D x_t) silu(z_t) (Dao and Gu 2024, Mamba-2).

    H heads of width P, each with a state S of P by N numbers and a decay of its own; head h has the B and C of group
    h // (H / G). Steps go in chunks, within a chunk by matrix products; memory is O(B L (H P + G N) + B L / Q H P N)
    for chunks of Q steps, in backward too, which computes the states again.

    Args:
        x: Inputs, real (B, L, H, P), any strides, L = 0 included.
        dt: Step sizes (B, L, H), in the unit of 1 / A; a step with dt = 0 leaves the state as it was.
        A: Decay rates (H,), usually negative. Results are finite as long as exp of every sum of dt A over
            neighbouring steps of a chunk, and the state, are.
        B: Input vectors (B, L, G, N), G a divisor of H.
        C: Output vectors (B, L, G, N).
        chunk_size: Q, steps that are taken in one go: speed and rounding depend on it, nothing else. Backends take
            less for short sequences; "triton" takes 64 (32 in single, 16 in double precision), or 16.
        D: Skip, (H,) or (H, P), or None.
        z: Gate (B, L, H, P): the output times silu(z); or None.
        dt_bias: Added to dt (H,), or None.
        dt_softplus: Whether softplus, log(1 + exp(.)), linear above 20, is applied to dt + dt_bias.
        initial_state: S before the first step, (B, H, P, N); (S, H, P, N) with `cu_seqlens`; zero if None.
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included.
        backend: "reference", "torch" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        y (B, L, H, P) in the dtype of x, and the final state (B, H, P, N) or (S, H, P, N); both differentiable, once
        (on "reference" to any order). Arithmetic and the state are in float32 at least, or float64 if any argument
        is, also under autocast.

    Raises:
        ValueError: Shapes, dtypes, devices, offsets or chunk_size do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> x, B = torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
        >>> y, state = ssd_scan(x, torch.ones(1, 3, 1), torch.tensor([0.0]), B, B)
        >>> y.flatten().tolist(), state.item()
        ([1.0, 2.0, 3.0], 3.0)
    """
    backend = dispatch.requested(_OP, backend)
    _check(x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_state, cu_seqlens)
    tensors = (x, dt, A, B, C, D, z, initial_state)
    dtype = compute_dtype(*tensors, dt_bias)
    with torch.autocast(x.device.type, enabled=False):
        # torch's softplus rounds by the layout: vectors, or element by element.
        dt = dt.to(dtype).contiguous()
        dt = dt if dt_bias is None else dt + dt_bias
        dt = F.softplus(dt) if dt_softplus else dt
        if backend == "reference":
            D, z, initial_state = (None if m is None else m.to(dtype) for m in tensors[5:])
            wide, dt, A, B, C = (m.to(dtype) for m in (x, dt, A, B, C))
            y, state = reference.ssd_scan(wide, dt, A, B, C, D, z, initial_state, cu_seqlens=cu_seqlens)
        else:
            y, state = _scan(x, dt, *tensors[2:], cu_seqlens, chunk_size, backend)
    return y.to(x.dtype), state


def _fake(x, dt, A, B, C, D, z, initial_state, cu_seqlens, chunk_size) -> tuple[Tensor, Tensor]:
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = compute_dtype(x, dt, A, B, C, D, z, initial_state)
    return x.new_empty(x.shape), x.new_empty((rows, *x.shape[2:], B.shape[3]), dtype=dtype)


_scan = operator(
    f"ssm_core::{_OP}", "x dt A B C D? z? initial_state? cu_seqlens?", "int chunk_size", _fake
)  # clean operands; dt as it enters the recurrence


def _check(x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_state, cu_seqlens) -> None:
    if x.ndim != 4 or B.ndim != 4:
        raise ValueError(
            f"{_OP}: x and B have shapes {tuple(x.shape)} and {tuple(B.shape)}, "
            "expected (B, L, H, P) and (B, L, G, N)"
        )
    given = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    check_numeric(_OP, **given, initial_state=initial_state)
    check_real(_OP, **given, initial_state=initial_state)
    (batch, length, heads, width), (groups, states) = x.shape, B.shape[2:]
    if groups == 0 or heads % groups:
        raise ValueError(f"{_OP}: B has {groups} groups, expected a divisor of the {heads} heads of x")
    check_shape(_OP, "dt", dt, (batch, length, heads), letters="(B, L, H)")
    check_shape(_OP, "A", A, (heads,), letters="(H,)")
    check_shape(_OP, "B", B, (batch, length, groups, states), letters="(B, L, G, N)")
    check_shape(_OP, "C", C, B.shape, letters="(B, L, G, N)")
    if D is not None:
        check_shape(_OP, "D", D, (heads,), (heads, width), letters="(H,) or (H, P)")
    if z is not None:
        check_shape(_OP, "z", z, x.shape, letters="(B, L, H, P)")
    if dt_bias is not None:
        check_shape(_OP, "dt_bias", dt_bias, (heads,), letters="(H,)")
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"{_OP}: chunk_size is {chunk_size!r}, expected a positive integer")
    if cu_seqlens is not None:
        check_cu_seqlens(_OP, cu_seqlens, batch, x.device)
    if initial_state is not None:
        rows, letters = batch, "(B, H, P, N)"
        if cu_seqlens is not None:
            rows, letters = cu_seqlens.shape[0] - 1, "(S, H, P, N)"
        check_shape(_OP, "initial_state", initial_state, (rows, heads, width, states), letters=letters)


def _probe(backend: str) -> Tensor:
    x, B = torch.ones(1, 3, 2, 2), torch.full((1, 3, 1, 2), 0.5)
    A = torch.tensor([-1.0, -0.5])
    return ssd_scan(x, torch.full((1, 3, 2), 0.5), A, B, B, backend=backend)[0]


dispatch.register(_OP, _probe)
