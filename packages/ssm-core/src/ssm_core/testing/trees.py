"""States are trees of tensors: walking, changing, picking rows of and comparing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ssm_core.protocols import State
from ssm_core.trees import leaves

__all__ = ["assert_close", "leaves", "mapped", "rows"]


def mapped(function: Callable[[Tensor], Tensor], tree: State) -> State:
    """Return the state with a function applied to each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, value) for value in tree))
    return type(tree)(mapped(function, value) for value in tree)


def rows(tree: State, index: Any) -> State:
    """Return some batch rows of a state."""
    return mapped(lambda leaf: leaf[index], tree)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Compare two tensors, relative to the largest value expected (at least 1).

    Args:
        actual: What came out.
        expected: What ought to.
        tolerance: Largest error relative to that value.
        what: Said in the message.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    expected = expected.to(actual.dtype)
    scale = max(1.0, expected.detach().abs().max().item())
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=tolerance * scale, msg=lambda text: f"{what}\n{text}"
    )
