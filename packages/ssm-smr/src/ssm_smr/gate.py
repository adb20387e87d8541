"""The gate of State Memory Replay: u'_k = s sigmoid(b + sum_i W_i u_{k-i}) u_k, for i = 0 .. tau-1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def smr_gate(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    gate_scale: float = 1.0,
    segment_bl: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale each input by a squashed causal convolution over the last tau inputs.

    Args:
        u: Input of the state-space model (B, L, H).
        weight: Depthwise (H, tau), or dense (H, H, tau) as (output, input, time); ``weight[..., -1]`` belongs to
            the current step.
        bias: (H,), or None.
        initial_state: The tau - 1 inputs before the first (B, tau-1, H); None is zeros.
        gate_scale: Factor s on the sigmoid.
        segment_bl: Integer id of each element's segment (B, L); memory does not cross segments, and the initial state
            belongs to segment 0. None is one segment.

    Returns:
        u' (B, L, H), and the last tau - 1 inputs (B, tau-1, H).

    Source:
        Qi et al. 2024, arXiv 2405.17534, as reconstructed in the documentation; the paper's own equations
        were not at hand.
    """
    tau, (batch, length, width) = weight.shape[-1], u.shape
    if weight.shape not in {(width, tau), (width, width, tau)}:
        raise ValueError(
            f"smr_gate: weight is (H, tau) or (H, H, tau) with H = {width}, got {tuple(weight.shape)}"
        )
    if initial_state is None:
        initial_state = u.new_zeros(batch, tau - 1, width)
    if initial_state.shape != (batch, tau - 1, width):
        raise ValueError(
            f"smr_gate: initial_state is (B, tau-1, H) = {(batch, tau - 1, width)}, got {tuple(initial_state.shape)}"
        )
    padded = torch.cat([initial_state.to(u), u], 1)
    gate = gate_scale * torch.sigmoid(_convolve(padded, weight, bias, length, segment_bl))
    return gate.to(u) * u, padded[:, length:]


def _convolve(
    padded: Tensor, weight: Tensor, bias: Tensor | None, length: int, segment_bl: Tensor | None
) -> Tensor:
    """Convolve (B, tau-1+L, H) causally to (B, L, H), taps of other segments left out."""
    tau, dense = weight.shape[-1], weight.ndim == 3
    if dense and segment_bl is None and length:
        return F.conv1d(padded.transpose(1, 2), weight, bias).transpose(1, 2)
    segments = None if segment_bl is None else F.pad(segment_bl, (tau - 1, 0))
    z = padded.new_zeros(()) if bias is None else bias
    for i in range(tau):
        tap = padded[:, i : i + length]
        if segments is not None:
            same = segments[:, i : i + length] == segments[:, tau - 1 :]
            tap = tap.masked_fill(~same[..., None], 0)
        z = z + (F.linear(tap, weight[..., i]) if dense else tap * weight[:, i])
    return z
