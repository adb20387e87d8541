"""The linear recurrence h_t = a_t h_{t-1} + b_t."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_cu_seqlens, check_numeric, check_shape, compute_dtype, output_dtype
from ssm_core.opkit.packing import state_shape
from ssm_core.ops.linear_scan import reference
from ssm_core.ops.linear_scan.autograd import scan


def linear_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan h_t = a_t h_{t-1} + b_t along time, elementwise in the features.

    Args:
        a: Decays, real or complex: (B, L, *F), or (*F) if they do not change with time (never expanded in memory
            on the fast paths). 0 is allowed and cuts the past off.
        b: Inputs, real or complex: (B, L, *F), any strides, L = 0 included.
        initial_state: h before the first step, (B, *F); (S, *F) with `cu_seqlens`; zero if None.
        reverse: Scan from the right: h_t = a_t h_{t+1} + b_t. The initial state enters at the right end and the
            final state is h at the left end.
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        h (B, L, *F) and the final state (B, *F) or (S, *F), both differentiable, to any order. Arithmetic and the
        state are in float32 at least, or the widest dtype given, complex if one is; h has the dtype of b, made
        complex if a or the state is.

    Raises:
        ValueError: Shapes, dtypes, devices or offsets do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> h, last = linear_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
        >>> h.flatten().tolist(), last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    backend = dispatch.requested("linear_scan", backend)
    _check(a, b, initial_state, cu_seqlens)
    dtype = compute_dtype(a, b, initial_state)
    state = None if initial_state is None else initial_state.to(dtype)
    if backend == "reference":
        h, last = reference.linear_scan(
            a.to(dtype), b.to(dtype), state, reverse=reverse, cu_seqlens=cu_seqlens
        )
    else:
        h, last = scan(a.to(dtype), b.to(dtype), state, cu_seqlens, reverse, backend)
    return h.to(output_dtype(b, dtype)), last


def _check(a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> None:
    op = "linear_scan"
    if b.ndim < 2:
        raise ValueError(f"{op}: b has shape {tuple(b.shape)}, expected (B, L, *F)")
    check_numeric(op, a=a, b=b, initial_state=initial_state)
    check_shape(op, "a", a, b.shape, b.shape[2:], letters="(B, L, *F) or, time-invariant, (*F)")
    if cu_seqlens is not None:
        check_cu_seqlens(op, cu_seqlens, b.shape[0], b.device)
    if initial_state is not None:
        letters = "(B, *F)" if cu_seqlens is None else "(S, *F)"
        check_shape(op, "initial_state", initial_state, state_shape(b, cu_seqlens), letters=letters)


def _probe(backend: str) -> Tensor:
    return linear_scan(torch.tensor([0.5, -0.2]), torch.ones(2, 3, 2), backend=backend)[0]


dispatch.register("linear_scan", _probe)
