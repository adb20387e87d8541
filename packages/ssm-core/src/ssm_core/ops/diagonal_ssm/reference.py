"""The diagonal state-space model as a time loop: the definition, and the oracle of the tests."""

import torch
from torch import Tensor

from ssm_core.discretize import discretize


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
) -> tuple[Tensor, Tensor]:
    """y_t = 2 Re(C x_t) + D u_t, x_t = a_bar_t x_{t-1} + gain_t B u_t; see `ssm_core.ops.diagonal_ssm`."""
    dt = dt.expand(u.shape[:2] + A.shape)
    edges = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    rows = u.shape[0] if cu_seqlens is None else len(edges) - 1
    start = A.new_zeros(rows, A.shape[0]) if initial_state is None else initial_state
    starts = [start] if cu_seqlens is None else start.split(1)
    out, last = [u[:, :0]], []
    for x, begin, end in zip(starts, edges, edges[1:], strict=False):
        for u_bh, dt_bn in zip(u[:, begin:end].unbind(1), dt[:, begin:end].unbind(1), strict=True):
            a_bar, gain = discretize(A, dt_bn, discretization)
            x = a_bar * x + gain * (u_bh.to(A.dtype) @ B.T)
            y_bh = 2 * (x @ C.T).real
            out.append((y_bh if D is None else y_bh + D * u_bh)[:, None])
        last.append(x)
    return torch.cat(out, 1), torch.cat([start[:0], *last])
