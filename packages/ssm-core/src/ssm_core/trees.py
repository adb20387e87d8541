"""States are trees of tensors whose form is their owner's affair: walking them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor

from ssm_core.protocols import State


def leaves(tree: State, *, without: tuple[str, ...] = ()) -> Iterator[Tensor]:
    """Yield the tensors of a state, in order.

    Args:
        tree: The state, or anything in it.
        without: Names in dicts, at any depth, that are passed over.

    Raises:
        TypeError: If something in it is neither a tensor nor a container of tensors.
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for name, value in cast("Mapping[str, State]", tree).items():
            if name not in without:
                yield from leaves(value, without=without)
    elif isinstance(tree, list | tuple):
        for value in cast("tuple[State, ...]", tree):
            yield from leaves(value, without=without)
    else:
        raise TypeError(f"a state holds tensors, dicts and tuples only, not {type(tree).__name__}")
