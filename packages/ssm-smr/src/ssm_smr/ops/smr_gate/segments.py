"""The gate where memory is cut by the ids of segments rather than by offsets: masks and resets of a layer.

Rows of a batch are cut at places of their own, which no offsets describe without reading values back to the host.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def gate_segments(
    u: Tensor, weight: Tensor, bias: Tensor | None, memory: Tensor, gate_scale: float, segment_bl: Tensor
) -> Tensor:
    """`smr_gate` whose memory does not cross segments, in plain torch under ordinary autograd.

    Args:
        u: Input (B, L, H).
        weight: (H, tau), or (H, H, tau) as (output, input, time).
        bias: (H,) or None.
        memory: The tau - 1 inputs before the first (B, tau-1, H); they belong to segment 0.
        gate_scale: Factor on the sigmoid.
        segment_bl: Integer id of each element's segment (B, L).

    Returns:
        u' (B, L, H).
    """
    tau, length = weight.shape[-1], u.shape[1]
    padded = torch.cat([memory, u], 1)
    segments = F.pad(segment_bl, (tau - 1, 0))
    z = padded.new_zeros(()) if bias is None else bias
    for k in range(tau):
        same = segments[:, k : k + length] == segments[:, tau - 1 :]
        tap = padded[:, k : k + length].masked_fill(~same[..., None], 0)
        z = z + (F.linear(tap, weight[..., k]) if weight.ndim == 3 else tap * weight[:, k])
    return (gate_scale * torch.sigmoid(z)).to(u) * u
