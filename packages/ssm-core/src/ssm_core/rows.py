"""Where valid elements go when they are moved together: to the front of their row, or to rows of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_core.protocols import State


def over(flags: Tensor, like: Tensor) -> Tensor:
    """Flags of leading axes, shaped to broadcast over the trailing axes of another tensor."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))


def valid(x_bl: Tensor, lengths_b: Tensor) -> Tensor:
    """Return True at the elements that count (B, L), for any x (B, L, ...)."""
    return torch.arange(x_bl.shape[1], device=x_bl.device) < lengths_b[:, None]


class Front:
    """The valid elements of each batch row at its front; no shape depends on the mask's values."""

    def __init__(self, mask_bl: Tensor) -> None:
        self.mask = mask_bl
        self.lengths = mask_bl.sum(1)
        self._order = torch.argsort(~mask_bl, dim=1, stable=True)
        self._back = torch.argsort(self._order, dim=1)

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, ...) with the valid elements first and zeros behind them."""
        rows = x.gather(1, over(self._order, x).expand(x.shape))
        return torch.where(over(valid(x, self.lengths), x), rows, torch.zeros_like(rows))

    def unpack(self, y: Tensor) -> Tensor:
        """(B, L, ...) with each element in its own place again, zeros where masked."""
        out = y.gather(1, over(self._back, y).expand(y.shape))
        return torch.where(over(self.mask, y), out, torch.zeros_like(out))


def only_pads(mask_bl: Tensor) -> bool:
    """Whether a mask (B, L) leaves every row's valid elements where they are, first.

    It is looked at, as it saves moving every element twice; not in a compiled graph, whose form may hang on no value.
    """
    if mask_bl.is_meta or torch.compiler.is_compiling():
        return False
    return bool((mask_bl[:, 1:] <= mask_bl[:, :-1]).all())


class Padded:
    """The valid elements of each row at its front, where they are already: the counterpart of `Front`."""

    def __init__(self, mask_bl: Tensor) -> None:
        self.mask = mask_bl
        self.lengths = mask_bl.sum(1)

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, ...) with zeros behind the valid elements: NaN in padding must not reach a gradient."""
        return torch.where(over(self.mask, x), x, torch.zeros_like(x))

    unpack = pack


@dataclass(frozen=True)
class Group:
    """Sequences of about one length, among those that resets begin, as rows (R, M).

    Attributes:
        take: Flat index b L + l of each place (R, M), that of some valid element where the place is empty.
        lengths: Number of valid elements of each row (R,).
        owner: The batch row that a sequence belongs to (R,).
        goes_on: Whether it continues the state that was handed in (R,).
        is_last: Whether it is the last of its batch row (R,).
    """

    take: Tensor
    lengths: Tensor
    owner: Tensor
    goes_on: Tensor
    is_last: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, ...) as (R, M, ...), zeros in empty places."""
        rows = x.flatten(0, 1)[self.take]
        return torch.where(over(valid(rows, self.lengths), rows), rows, torch.zeros_like(rows))

    def starts(self, state: State | None, fresh: State) -> State:
        """Return the state of each row: the one handed in where it goes on, a fresh one elsewhere."""
        if state is None:
            return fresh
        if isinstance(fresh, Mapping):
            return {name: self.starts(state[name], value) for name, value in fresh.items()}
        if isinstance(fresh, tuple):
            return tuple(self.starts(s, f) for s, f in zip(state, fresh, strict=True))
        return torch.where(over(self.goes_on, state), state[self.owner], fresh.to(state.dtype))

    def ends(self, found: State, after: State, batch: int) -> State:
        """Return the states found so far (B, ...) with those of the rows that end a batch row."""
        if isinstance(after, Mapping):
            return {n: self.ends(found and found[n], value, batch) for n, value in after.items()}
        if isinstance(after, tuple):
            return tuple(self.ends(found and found[n], value, batch) for n, value in enumerate(after))
        base = after.new_zeros(batch, *after.shape[1:]) if found is None else found
        return base.index_copy(0, self.owner[self.is_last], after[self.is_last])


def apart(mask_bl: Tensor, reset_bl: Tensor, one_group: bool) -> list[Group]:
    """Each sequence as a row, those of about one length together, so that places are at most twice the elements.

    How many there are and how long they are is read from the device.
    """
    length = mask_bl.shape[1]
    begins = reset_bl.clone()
    begins[:, 0] = True  # a batch row's first sequence, reset or not
    of_element = begins.flatten().long().cumsum(0) - 1
    starts = begins.flatten().nonzero()[:, 0]
    owner, first = starts // length, starts % length == 0
    goes_on = first & ~reset_bl[owner, 0]
    is_last = torch.cat([first[1:], torch.ones_like(first[:1])])
    element = mask_bl.flatten().nonzero()[:, 0]  # of all sequences, end to end
    lengths = torch.bincount(of_element[element], minlength=len(starts))
    begin = lengths.cumsum(0) - lengths
    # 2^exponent is the least power of two that holds the sequence.
    exponent = torch.frexp((lengths - 1).clamp(min=0).double()).exponent
    groups = []
    sizes = [exponent == size for size in exponent.unique()]
    for members in [torch.ones_like(first)] if one_group else sizes:
        widest = max(int(lengths[members].max()), 1)
        place = begin[members][:, None] + torch.arange(widest, device=starts.device)
        take = element[place.clamp(max=max(len(element) - 1, 0))] if len(element) else torch.zeros_like(place)
        rest = (lengths, owner, goes_on, is_last)
        groups.append(Group(take, *(each[members] for each in rest)))
    return groups
