"""The convolution of the gate where the fused operation does not do: by itself, and cut where sequences begin.

All of it under ordinary autograd; shapes depend on no value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.ops import causal_conv1d


def convolve(
    u: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor, segment_bl: Tensor | None = None
) -> Tensor:
    """Return z_k = b + sum_i W_i u_{k-i}, all in one precision.

    Args:
        u: Input (B, L, H).
        weight: (H, tau), or (H, H, tau) as (output, input, time); ``weight[..., -1]`` belongs to the current step.
        bias: (H,) or None.
        before: The tau - 1 inputs before the first (B, tau-1, H).
        segment_bl: Integer id of each element's sequence (B, L), the inputs before being of sequence 0; no tap crosses
            from one to the next. Rows of a batch are cut at places of their own, which no offsets describe without
            reading values back to the host. None is one sequence.

    Returns:
        z (B, L, H).
    """
    if segment_bl is not None:
        return _by_segments(u, weight, bias, before, segment_bl)
    if weight.ndim == 2:
        return causal_conv1d(u, weight, bias, initial_state=before)[0]
    return _dense(u, weight, bias, before)


def _dense(u: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor) -> Tensor:
    """One matrix product a tap, on all rows laid end to end: shifts of one matrix are contiguous."""
    past = before.shape[1]
    joined = torch.cat([before, u], 1)
    rows = joined.flatten(0, 1)
    count = max(len(rows) - past, 0)
    z = F.linear(rows[past:], weight[..., past], bias)
    for k in range(past):
        z = z + F.linear(rows[k : k + count], weight[..., k])
    # What stands where a row's own past begins mixes two rows, and is not of the output.
    return F.pad(z, (0, 0, past, 0)).view_as(joined)[:, past:]


def _by_segments(
    u: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor, segment_bl: Tensor
) -> Tensor:
    past, length = before.shape[1], u.shape[1]
    joined = torch.cat([before, u], 1)
    z = joined.new_zeros(()) if bias is None else bias
    for k in range(past + 1):
        same = _same_sequence(segment_bl, past, k)
        tap = joined[:, k : k + length].masked_fill(~same[..., None], 0)
        z = z + (F.linear(tap, weight[..., k]) if weight.ndim == 3 else tap * weight[:, k])
    return z


def convolve_gaps(
    weight: Tensor, log_gaps_bl: Tensor, log_before: Tensor, segment_bl: Tensor | None = None
) -> Tensor:
    """Return what one more input channel adds to z: sum_i v_i log dt_{k-i}.

    Args:
        weight: v (H, tau), ``weight[:, -1]`` the current step's.
        log_gaps_bl: Logarithm of the gap before each element (B, L).
        log_before: The same of the tau - 1 elements before (B, tau-1).
        segment_bl: As in :func:`convolve`.

    Returns:
        (B, L, H).
    """
    past = log_before.shape[1]
    windows = torch.cat([log_before, log_gaps_bl], 1).unfold(1, past + 1, 1)  # (B, L, tau)
    if segment_bl is not None:
        same = [_same_sequence(segment_bl, past, k) for k in range(past + 1)]
        windows = windows.masked_fill(~torch.stack(same, -1), 0)
    return F.linear(windows, weight)


def _same_sequence(segment_bl: Tensor, past: int, k: int) -> Tensor:
    """Return where tap k, of past + 1, reads the sequence it is for (B, L)."""
    return F.pad(segment_bl, (past, 0))[:, k : k + segment_bl.shape[1]] == segment_bl
