"""The selective scan as a time loop: the definition, and the oracle of the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.selective_scan.discretization import factors


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    discretization: str = "euler",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t = a_bar_t x_{t-1} + gain_t B_t u_t, y_t = (C_t x_t + D u_t) silu(z_t); see `ssm_core.ops.selective_scan`."""
    full = (*u.shape, A.shape[1])  # (B, L, D, N); B and C come as (D, N) or (B, L, G, N)
    B, C = (m.expand(full) if m.ndim == 2 else m.repeat_interleave(full[2] // m.shape[2], 2) for m in (B, C))
    edges = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    rows = u.shape[0] if cu_seqlens is None else len(edges) - 1
    start = A.new_zeros(rows, *A.shape) if initial_state is None else initial_state
    out, last = [u[:, :0]], []
    for x, i, j in zip([start] if cu_seqlens is None else start.split(1), edges, edges[1:], strict=False):
        for u_t, dt_t, B_t, C_t in zip(*(m[:, i:j].unbind(1) for m in (u, dt, B, C)), strict=True):
            a_bar, gain = factors(A, dt_t[..., None], discretization)
            x = a_bar * x + gain * B_t * u_t[..., None]  # (B, D, N)
            y = (C_t * x).sum(-1)
            out.append((2 * y.real if y.is_complex() else y)[:, None])
        last.append(x)
    y = torch.cat(out, 1) if D is None else torch.cat(out, 1) + D * u
    return (y if z is None else y * F.silu(z)), torch.cat([start[:0], *last])
