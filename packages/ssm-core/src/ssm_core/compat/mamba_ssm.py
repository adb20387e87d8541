"""Functions of the package mamba_ssm under its names, signatures and layouts (time last), on `ssm_core.ops`.

Code written for ``mamba_ssm.ops.selective_scan_interface`` runs here with that import changed: without a build, on a
CPU too, and with final states that have gradients.
"""

import torch
from torch import Tensor

from ssm_core.ops import selective_scan
from ssm_core.ops import selective_state_update as _update


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run `ssm_core.ops.selective_scan` on tensors with time last.

    Args:
        u: Inputs (B, D, L).
        delta: Gaps (B, D, L).
        A: Eigenvalues (D, N), real or complex.
        B: Input weights (D, N), (B, N, L) or (B, G, N, L). Beside complex A the latter two are real, of length 2 L:
            real and imaginary part in turn.
        C: Output weights, of the same forms.
        D: Feed-through (D,), or None.
        z: Gate (B, D, L), or None.
        delta_bias: Added to delta (D,), or None.
        delta_softplus: Take softplus(delta + delta_bias) as the gap.
        return_last_state: Return the state after the last step too.

    Returns:
        Outputs (B, D, L) in the dtype of u; with `return_last_state` also the state (B, D, N).

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    B, C = (_time_second(m, A.is_complex()) for m in (B, C))
    gate = None if z is None else z.mT
    y, state = selective_scan(u.mT, delta.mT, A, B, C, D, gate, delta_bias, delta_softplus)
    return (y.mT, state) if return_last_state else y.mT


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
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Advance a model by one step, writing the new state into `state`.

    Args:
        state: (B, D, N), or (B, heads, D, N) with every other argument having the axis of heads too; overwritten.
        x: Inputs (B, D).
        dt: Gaps (B, D).
        A: Eigenvalues (D, N).
        B: Input weights (B, N) or (B, G, N).
        C: Output weights, of the same forms.
        D: Feed-through (D,), or None.
        z: Gate (B, D), or None.
        dt_bias: Added to dt (D,), or None.
        dt_softplus: Take softplus(dt + dt_bias) as the gap.
        state_batch_indices: Row of `state` that each row of x belongs to (B,), or None if they are in order.

    Returns:
        Outputs (B, D), or (B, heads, D).

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    rows = torch.arange(len(x), device=x.device) if state_batch_indices is None else state_batch_indices
    before = state[rows.long()]
    given = (before, x, dt, A, B, C, D, z, dt_bias)
    if state.ndim == 4:  # each head's channels stand side by side
        axes = (1, 1, 1, 0, None, None, 0, 1, 0)
        given = tuple(
            t if t is None or i is None else t.flatten(i, i + 1) for t, i in zip(given, axes, strict=True)
        )
    held, u, gap, *rest = given
    y, after = _update(held, u, gap, *rest[:6], dt_softplus)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with torch.no_grad():
        state[rows.long()] = after.reshape(before.shape).to(state.dtype)
    return y.reshape(x.shape)


def _time_second(m: Tensor, wide: bool) -> Tensor:
    """B or C with time second, from time last."""
    if m.ndim == 2:
        return m
    if wide and not m.is_complex():
        m = m if m.dtype == torch.float64 else m.float()
        m = torch.view_as_complex(m.unflatten(-1, (-1, 2)).contiguous())
    return m.movedim(-1, 1)
