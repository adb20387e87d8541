"""One forward pass as a run computes it: its arithmetic, with outputs wide enough for losses and metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.protocols import Batch, Output, State


def forward(model: nn.Module, batch: Batch, state: State | None, precision: str) -> Output:
    """Run a model on a batch that lies on its device; half precision comes out as float32.

    Args:
        model: Called with a batch, as :class:`ssm_core.model.SequenceModel` is.
        batch: Its input.
        state: State to go on from, or None.
        precision: ``float32``, ``bf16`` or ``fp16``, as ``train.precision``.
    """
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    arithmetic = (
        torch.autocast(batch.inputs.device.type, kinds[precision])
        if precision in kinds
        else contextlib.nullcontext()
    )
    with arithmetic:
        output = model(batch) if state is None else model(batch, state)
    return each_tensor(output, _widened)


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tree of tuples, lists, mappings and dataclasses with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: each_tensor(getattr(value, f.name), change) for f in fields(value) if f.init}
        return replace(value, **parts)
    if isinstance(value, Mapping):
        return {key: each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [each_tensor(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
