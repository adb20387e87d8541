"""States of inner mixers are trees of tensors whose form is their own affair: choosing rows of them, and fitting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from ssm_core.protocols import State
from ssm_core.rows import over


def choose(rows_b: Tensor, yes: State, no: State) -> State | None:
    """Return a state with the rows of `yes` where (B,) is True and of `no` elsewhere, or None if shapes differ.

    A time that a state holds open (``gap``, as `ssm_core.in_place` has it) and the other has not is 0 there.
    """
    if isinstance(yes, Tensor):
        return torch.where(over(rows_b, yes), yes, no.to(yes.dtype)) if yes.shape == no.shape else None
    if isinstance(yes, Mapping):
        given, kept = cast("Mapping[str, State]", yes), cast("Mapping[str, State]", no)
        if not (given.keys() ^ kept.keys()) <= {"gap"}:
            return None
        names = [*kept, *(name for name in given if name not in kept)]
        pairs = [(name, given.get(name), kept.get(name)) for name in names]
        found = {n: choose(rows_b, _or_zero(a, b), _or_zero(b, a)) for n, a, b in pairs}
        return None if any(value is None for value in found.values()) else found
    chosen = tuple(choose(rows_b, a, b) for a, b in zip(yes, no, strict=True))
    return None if any(value is None for value in chosen) else chosen


def fitted(fresh: State, like: State, rows: int) -> State:
    """Return an initial state in the shapes of another, which has grown: empty places for what that one has seen."""
    if isinstance(fresh, Tensor):
        same = fresh.shape[1:] == like.shape[1:]
        return fresh if same else like.new_zeros(rows, *like.shape[1:])
    if isinstance(fresh, Mapping):
        items = cast("Mapping[str, State]", fresh).items()
        return {name: fitted(value, like[name], rows) for name, value in items}
    return tuple(fitted(a, b, rows) for a, b in zip(fresh, like, strict=True))


def _or_zero(value: State | None, like: State) -> State:
    return torch.zeros_like(like) if value is None else value
