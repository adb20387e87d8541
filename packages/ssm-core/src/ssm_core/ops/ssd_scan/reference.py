"""The state-space dual of Mamba-2 as a time loop: the definition, and the oracle of the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = (S_t C_t + D x_t) silu(z_t), S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T; see `ssm_core.ops.ssd_scan`."""
    batch, length, heads, width = x.shape
    B, C = (m.repeat_interleave(heads // m.shape[2], 2) for m in (B, C))  # (B, L, H, N)
    edges = [0, length] if cu_seqlens is None else cu_seqlens.tolist()
    rows = batch if cu_seqlens is None else len(edges) - 1
    start = x.new_zeros(rows, heads, width, B.shape[3]) if initial_state is None else initial_state
    starts = [start] if cu_seqlens is None else start.split(1)
    out, last = [x[:, :0]], []
    for S, begin, end in zip(starts, edges, edges[1:], strict=False):
        steps = (m[:, begin:end].unbind(1) for m in (x, dt, B, C))
        for x_bhp, dt_bh, B_bhn, C_bhn in zip(*steps, strict=True):
            inflow = (dt_bh[..., None] * x_bhp)[..., None] * B_bhn[..., None, :]  # (B, H, P, N)
            S = (dt_bh * A).exp()[..., None, None] * S + inflow
            out.append((S @ C_bhn[..., None]).squeeze(-1)[:, None])
        last.append(S)
    y = torch.cat(out, 1)
    y = y if D is None else y + (D[:, None] if D.ndim == 1 else D) * x
    return y if z is None else y * F.silu(z), torch.cat([start[:0], *last])
