"""Functions of the package causal_conv1d under its names, signatures and layouts (time last), on `ssm_core.ops`.

Code written for ``causal_conv1d`` runs here with that import changed: without a build, on a CPU too, for any width,
layout and dtype, with `seq_idx` and states at once, and with gradients of every state.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.ops.causal_conv1d import causal_conv1d
from ssm_core.ops.causal_conv1d import causal_conv1d_update as _step


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run `ssm_core.ops.causal_conv1d` on tensors with time last.

    Args:
        x: Inputs (B, D, L).
        weight: Filters (D, W), the current step's tap last.
        bias: (D,), or None.
        seq_idx: Integer id of each step's sequence (B, L), or None. A sequence is a run of equal ids: no tap crosses
            where the id changes. Below 0 stands padding, whose outputs are 0 and whose inputs reach nothing. Reading
            off where the id changes waits for the device once.
        initial_states: The W - 1 inputs before the first (B, D, W-1), or None. With `seq_idx`, those before the first
            sequence of each row.
        return_final_states: Return the last W - 1 inputs too; with `seq_idx`, of the last sequence of each row, 0
            where the row ends in padding.
        final_states_out: Where to write them (B, D, W-1), or None.
        activation: None, "silu" or "swish".

    Returns:
        Outputs (B, D, L) in the dtype of x; with `return_final_states` also the states (B, D, W-1) in the dtype of x,
        or `final_states_out`.

    Raises:
        ValueError: Shapes, dtypes or `activation` do not fit.
    """
    before = None if initial_states is None else initial_states.mT
    if seq_idx is None or x.shape[0] * x.shape[2] == 0:
        y, state = causal_conv1d(x.mT, weight, bias, activation, before)
    else:
        y, state = _by_ids(x.mT, weight, bias, activation, before, seq_idx)
    if not return_final_states:
        return y.mT
    state = state.mT.to(x.dtype)
    return y.mT, state if final_states_out is None else final_states_out.copy_(state)


def _by_ids(x, weight, bias, activation, before, seq_idx) -> tuple[Tensor, Tensor]:
    """The convolution of x (B, L, D) where ids (B, L) separate sequences: all rows packed into one."""
    batch, length, _ = x.shape
    if seq_idx.shape != (batch, length):
        raise ValueError(
            f"causal_conv1d_fn: seq_idx has shape {tuple(seq_idx.shape)}, expected {(batch, length)}, that is (B, L)"
        )
    begins = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0), value=True).flatten()
    cu_seqlens = F.pad(begins.nonzero()[:, 0], (0, 1), value=batch * length).to(torch.int32)
    sequence = (begins.cumsum(0) - 1).view(batch, length)
    states = None
    if before is not None:
        states = before.new_zeros(len(cu_seqlens) - 1, *before.shape[1:]).index_copy(
            0, sequence[:, 0], before
        )
    # Padding is a sequence of its own, so no tap crosses into it or out of it. Its inputs are made 0 all the same:
    # a NaN there would come back by the gradient of the weight.
    real = (seq_idx >= 0)[..., None]
    packed = torch.where(real, x, 0.0).flatten(0, 1)[None]
    y, states = causal_conv1d(packed, weight, bias, activation, states, cu_seqlens=cu_seqlens)
    y = torch.where(real, y.view(x.shape), 0.0)
    return y, torch.where(real[:, -1:], states[sequence[:, -1]], 0.0)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Do one step or a few, and write the inputs into the states in place.

    Args:
        x: Inputs (B, D), or (B, D, L).
        conv_state: The last inputs (B, D, S) with S >= W - 1, overwritten: the last S of them and x. With
            `conv_state_indices`, (N, D, S).
        weight: Filters (D, W), the current step's tap last.
        bias: (D,), or None.
        activation: None, "silu" or "swish".
        cache_seqlens: int32 (B,), or None. The steps each sequence has had: the states are then circular, step t
            standing at t mod S.
        conv_state_indices: int32 (B,), or None. The row of `conv_state` that belongs to each row of x; below 0 for
            padding, whose outputs are 0 and which touches no state. No row of states may be named twice.

    Returns:
        Outputs in the shape and dtype of x.

    Raises:
        ValueError: Shapes, dtypes or `activation` do not fit.
    """
    if x.ndim == 2:
        given = x[..., None], conv_state, weight, bias, activation, cache_seqlens, conv_state_indices
        return causal_conv1d_update(*given)[..., 0]
    batch, width, size = x.shape[0], weight.shape[-1], conv_state.shape[-1]
    rows = len(conv_state) if conv_state_indices is not None else batch
    if x.ndim != 3 or conv_state.shape != (rows, x.shape[1], size) or size < width - 1:
        raise ValueError(
            f"causal_conv1d_update: conv_state has shape {tuple(conv_state.shape)}, expected (B, D, S) with S >= W-1 "
            f"for x {tuple(x.shape)}, that is (B, D) or (B, D, L), and W = {width}"
        )
    held = conv_state if conv_state_indices is None else conv_state[conv_state_indices.clamp(min=0)]
    before, after = _ring(held, x, width, cache_seqlens)
    if x.shape[2] == 1:
        y = _step(x[..., 0], before.mT, weight, bias, activation)[0][..., None]
    else:
        y = causal_conv1d(x.mT, weight, bias, activation, before.mT)[0].mT
    if conv_state_indices is None:
        with torch.no_grad():
            conv_state.copy_(after)
        return y
    _write(conv_state, conv_state_indices, after)
    return torch.where((conv_state_indices >= 0)[:, None, None], y, 0.0)


def _ring(held: Tensor, x: Tensor, width: int, cache_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """The W - 1 inputs before x (B, D, W-1), and what `held` (B, D, S) is after x (B, D, L)."""
    channels, size, length = *held.shape[1:], x.shape[2]
    if cache_seqlens is None:
        # A copy: the states are about to be overwritten, and the gradient of the weight needs these.
        return held[..., size - width + 1 :].clone(), torch.cat([held, x.to(held.dtype)], 2)[..., length:]

    def places(first: int, stop: int) -> Tensor:
        steps = cache_seqlens.long()[:, None] + torch.arange(first, stop, device=x.device)
        return (steps % max(size, 1))[:, None].expand(-1, channels, -1)

    kept = min(length, size)  # of more steps than there are places the last ones stay
    after = held.scatter(2, places(length - kept, length), x[..., length - kept :].to(held.dtype))
    return held.gather(2, places(1 - width, 0)), after


@torch.no_grad()
def _write(conv_state: Tensor, indices: Tensor, after: Tensor) -> None:
    """Write `after` (B, D, S) into the rows named, those below 0 nowhere, without asking the device which these are.

    Each of those repeats what the first real one does, and if there is none, writes back what stands in row 0.
    """
    real = indices >= 0
    first = real.int().argmax(0, keepdim=True)
    rows = torch.where(real, indices, indices[first]).clamp(min=0).long()
    repeated = torch.where(real[first][:, None, None], after[first], conv_state[:1])
    conv_state[rows] = torch.where(real[:, None, None], after, repeated)
