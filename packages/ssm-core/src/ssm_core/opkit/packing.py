"""Where sequences start and end: the neighbours of a step, in a batch (B, L, ...) or in a pack (1, L, ...).

In a pack `cu_seqlens` (S+1,) holds the offsets of S sequences laid end to end. Everything here works on the device,
reads no value back to the host and allows empty sequences. `reverse` is the direction of the scan: its first step is
then a sequence's last element.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def state_shape(x: Tensor, cu_seqlens: Tensor | None) -> tuple[int, ...]:
    """The shape of a state beside x (B, L, *F): (B, *F), or (S, *F) for a pack."""
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return (rows, *x.shape[2:])


class Ends(NamedTuple):
    """The first and last step of each sequence of a pack in scan order, and which sequences have any."""

    first: Tensor
    last: Tensor
    nonempty: Tensor


def ends(cu_seqlens: Tensor, length: int, reverse: bool) -> Ends:
    """Indices (S,) into the packed time axis, clamped into it where the sequence is empty."""
    left = cu_seqlens[:-1].long().clamp(max=max(length - 1, 0))
    right = (cu_seqlens[1:].long() - 1).clamp(min=0)
    nonempty = cu_seqlens[1:] > cu_seqlens[:-1]
    return Ends(right, left, nonempty) if reverse else Ends(left, right, nonempty)


def is_first(cu_seqlens: Tensor, length: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """(mask, sequence), each (L,): does the scan enter a sequence at this step, and which sequence is it in."""
    steps = torch.arange(length, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens.long(), steps, right=True) - 1
    edge = cu_seqlens.long()[sequence + 1] - 1 if reverse else cu_seqlens.long()[sequence]
    return steps == edge, sequence


def over(flags: Tensor, like: Tensor) -> Tensor:
    """Flags of one leading axis, shaped to broadcast over the trailing axes of `like`."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))


def resets(
    a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """(a, b) of the scan over the whole pack that equals the scans of its sequences: a = 0 where one starts."""
    mask, sequence = is_first(cu_seqlens, b.shape[1], reverse)
    a = a.expand(b.shape)
    mask = over(mask, b[0])
    if initial_state is not None:
        b = torch.where(mask, b + a * initial_state[sequence], b)
    return torch.where(mask, 0.0, a), b


def at_last(h: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """The state (S, ...) after each sequence of a pack; an empty one keeps its initial state."""
    _, last, nonempty = ends(cu_seqlens, h.shape[1], reverse)
    if initial_state is None:
        initial_state = h.new_zeros(state_shape(h, cu_seqlens))
    if h.shape[1] == 0:
        return initial_state.clone()
    return torch.where(over(nonempty, initial_state), h[0, last], initial_state)


def at_first(m: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """The value at the first step of each sequence, (B, ...) or (S, ...); 0 for an empty sequence."""
    if m.shape[1] == 0:
        return m.new_zeros(state_shape(m, cu_seqlens))
    if cu_seqlens is None:
        return m[:, -1] if reverse else m[:, 0]
    first, _, nonempty = ends(cu_seqlens, m.shape[1], reverse)
    return torch.where(over(nonempty, m[0]), m[0, first], 0.0)


def before(h: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """The state each step starts from: h shifted by one step, the initial state at the first."""
    if cu_seqlens is None:
        start = (
            torch.zeros_like(h[:, :1]) if initial_state is None else initial_state[:, None][:, : h.shape[1]]
        )
        return torch.cat([h[:, 1:], start], 1) if reverse else torch.cat([start, h[:, :-1]], 1)
    mask, sequence = is_first(cu_seqlens, h.shape[1], reverse)
    start = 0.0 if initial_state is None else initial_state[sequence]
    return torch.where(over(mask, h[0]), start, h.roll(-1 if reverse else 1, 1))


def after(m: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """The value of the step that follows; 0 after the last. The adjoint of `before` in h."""
    if cu_seqlens is None:
        end = torch.zeros_like(m[:, :1])
        return torch.cat([end, m[:, :-1]], 1) if reverse else torch.cat([m[:, 1:], end], 1)
    mask, _ = is_first(cu_seqlens, m.shape[1], not reverse)
    return torch.where(over(mask, m[0]), 0.0, m.roll(1 if reverse else -1, 1))


def add_at_last(m: Tensor, extra: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """m with `extra` (B, ...) or (S, ...) added at the last step of each sequence that has one."""
    if m.shape[1] == 0:
        return m
    if cu_seqlens is None:
        if reverse:
            return torch.cat([m[:, :1] + extra[:, None], m[:, 1:]], 1)
        return torch.cat([m[:, :-1], m[:, -1:] + extra[:, None]], 1)
    mask, sequence = is_first(cu_seqlens, m.shape[1], not reverse)
    return torch.where(over(mask, m[0]), m + extra[sequence], m)
