"""The W - 1 inputs before each sequence: laid before it, read off after it, and the adjoints of both.

Sequences are rows of a batch x (B, L, H), or spans of a pack (1, L, H) with offsets `cu_seqlens` (S+1,); a state is
(B, W-1, H) or (S, W-1, H), oldest input first. Nothing here reads a value back to the host.
"""

import torch
from torch import Tensor

from ssm_core.opkit.packing import is_first


def join(x: Tensor, state: Tensor | None, cu_seqlens: Tensor | None, past: int) -> Tensor:
    """One matrix (N, H) of all sequences, each with the `past` rows of its state before it (None is zeros).

    Between the sequences the states keep taps apart, so a filter run over the whole matrix is right at every row
    of x; what it gives at rows of states nobody reads.
    """
    rows = len(x) if cu_seqlens is None else len(cu_seqlens) - 1
    if state is None:
        state = x.new_zeros(rows, past, x.shape[2])
    if cu_seqlens is None:
        return torch.cat([state, x], 1).flatten(0, 1)
    joined = x.new_empty(x.shape[1] + rows * past, x.shape[2])
    at_x, at_state = _places(cu_seqlens, x.shape[1], past)
    joined[at_x] = x[0]
    joined[at_state] = state
    return joined


def split(joined: Tensor, x: Tensor, cu_seqlens: Tensor | None, past: int) -> tuple[Tensor, Tensor]:
    """(x, state) of a matrix laid out by `join`, x being like the one given; of a batch, views."""
    if cu_seqlens is None:
        state, x = joined.view(len(x), past + x.shape[1], x.shape[2]).tensor_split([past], 1)
        return x, state
    at_x, at_state = _places(cu_seqlens, x.shape[1], past)
    return joined[at_x][None], joined[at_state]


def final_state(x: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, past: int) -> Tensor:
    """The last `past` inputs of each sequence, those of its initial state included where it is short."""
    length, rows = x.shape[1], len(x) if cu_seqlens is None else len(cu_seqlens) - 1
    if initial_state is None:
        initial_state = x.new_zeros(rows, past, x.shape[2])
    if cu_seqlens is None:
        kept = min(length, past)
        return torch.cat([initial_state[:, kept:], x[:, length - kept :]], 1)
    if length == 0:
        return initial_state.clone()
    steps, inside, _ = _tail(cu_seqlens, past)
    older = _along(initial_state, (cu_seqlens[1:] - cu_seqlens[:-1])[:, None], past)
    return torch.where(inside[..., None], x[0, steps.clamp(min=0)], older)


def add_final_state_gradient(
    grad_x: Tensor, grad_initial: Tensor, grad_state: Tensor, cu_seqlens: Tensor | None
) -> None:
    """The adjoint of `final_state`: add its gradient to those of x and of the initial state, in place."""
    (length, past), grad_state = (grad_x.shape[1], grad_state.shape[1]), grad_state.to(grad_x.dtype)
    if cu_seqlens is None:
        kept = min(length, past)
        grad_x[:, length - kept :] += grad_state[:, past - kept :]
        grad_initial[:, kept:] += grad_state[:, : past - kept]
        return
    if length == 0:
        grad_initial += grad_state
        return
    steps, inside, lengths = _tail(cu_seqlens, past)
    # No step is the end of two sequences: what the clamp doubles adds zeros.
    ends = torch.where(inside[..., None], grad_state, 0.0)
    grad_x[0].index_add_(0, steps.clamp(min=0).flatten(), ends.flatten(0, 1))
    outside = torch.arange(past, device=grad_x.device) >= lengths[:, None]
    grad_initial += torch.where(outside[..., None], _along(grad_state, -lengths[:, None], past), 0.0)


def heads(x: Tensor, cu_seqlens: Tensor | None, past: int) -> Tensor:
    """The first `past` steps of each sequence (S, past, H), 0 where it is shorter; fewer of a batch that is."""
    if cu_seqlens is None:
        return x[:, :past]
    if x.shape[1] == 0:
        return x.new_zeros(len(cu_seqlens) - 1, past, x.shape[2])
    steps, inside = _head(cu_seqlens, x.shape[1], past)
    return torch.where(inside[..., None], x[0, steps], 0.0)


def add_heads(x: Tensor, values: Tensor, cu_seqlens: Tensor | None) -> None:
    """The adjoint of `heads`: add values to the first steps of each sequence, in place."""
    past, values = values.shape[1], values.to(x.dtype)
    if cu_seqlens is None:
        x[:, :past] += values
    elif x.shape[1]:
        steps, inside = _head(cu_seqlens, x.shape[1], past)
        x[0].index_add_(0, steps.flatten(), torch.where(inside[..., None], values, 0.0).flatten(0, 1))


def _head(cu_seqlens: Tensor, length: int, past: int) -> tuple[Tensor, Tensor]:
    """The first `past` steps of each sequence (S, past), clamped into the pack, and which of them lie in it."""
    steps = cu_seqlens[:-1, None].long() + torch.arange(past, device=cu_seqlens.device)
    return steps.clamp(max=length - 1), steps < cu_seqlens[1:, None]


def _places(cu_seqlens: Tensor, length: int, past: int) -> tuple[Tensor, Tensor]:
    """Rows of `join`'s matrix: those of x (L,) and those of the states (S, past)."""
    _, sequence = is_first(cu_seqlens, length, False)
    starts = cu_seqlens[:-1].long() + past * torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    at_x = torch.arange(length, device=cu_seqlens.device) + past * (sequence + 1)
    return at_x, starts[:, None] + torch.arange(past, device=cu_seqlens.device)


def _tail(cu_seqlens: Tensor, past: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last `past` steps of each sequence (S, past), which of them lie in it, and its length (S,)."""
    starts, stops = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    steps = stops[:, None] - past + torch.arange(past, device=cu_seqlens.device)
    return steps, steps >= starts[:, None], stops - starts


def _along(state: Tensor, shift: Tensor, past: int) -> Tensor:
    """Row j + shift of each state at row j, clamped into it."""
    rows = (torch.arange(past, device=state.device) + shift.long()).clamp(0, max(past - 1, 0))
    return state.gather(1, rows[..., None].expand(-1, -1, state.shape[2]))
