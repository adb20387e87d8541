"""Naming the tensor that first went wrong when a loss or a gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.protocols import Batch


def diagnose(model: nn.Module, batch: Batch, rows: Sequence[int], output: Any) -> str:
    """Say which tensor is not finite: of the batch, then of the weights, the output, the gradients.

    Args:
        model: The model, gradients in place if there are any.
        batch: The batch as the model saw it.
        rows: Index of each of its rows in the training split.
        output: What the model returned.
    """
    for name, tensor in batch.tensors():
        bad = _bad(tensor)
        if bad is not None:
            row = int(bad.flatten(1).any(1).nonzero()[0]) if bad.ndim > 1 else int(bad.nonzero()[0])
            return f"the batch's '{name}' holds {_what(tensor, bad)} in row {rows[row]} of the training split"
    named = [(f"weight '{name}'", p) for name, p in model.named_parameters()]
    named += [(f"model output '{name}'", t) for name, t in _leaves(output, "")]
    named += [(f"gradient of '{name}'", p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, tensor in named:
        bad = _bad(tensor)
        if bad is not None:
            return f"{name} holds {_what(tensor, bad)}"
    return "inputs, weights, output and gradients are finite: the loss itself overflows"


def _bad(tensor: Tensor) -> Tensor | None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    bad = ~torch.isfinite(tensor.detach())
    return bad if bool(bad.any()) else None


def _what(tensor: Tensor, bad: Tensor) -> str:
    return f"{int(bad.sum())} non-finite of {tensor.numel()} values"


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path or "output", tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}".strip("."))
    elif isinstance(tree, tuple) and (fields := getattr(tree, "_fields", None)):
        yield from _leaves(dict(zip(fields, tree, strict=True)), path)
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{path}.{index}".strip("."))
