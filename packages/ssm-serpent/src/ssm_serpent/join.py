"""Branches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors (..., h) along the last axis.

    As ``torch.cat``, but that each part's gradient is a tensor of its own and not a view of the whole: that one would
    stay until the last branch is done, beside the copy that a branch makes of its part anyway.
    """
    return _Join.apply(*parts) if len(parts) > 1 else parts[0]  # pyright: ignore[reportReturnType]


class _Join(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*parts: Tensor) -> Tensor:
        return torch.cat(parts, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.widths = [part.shape[-1] for part in inputs]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(part.contiguous() for part in grad.split(ctx.widths, -1))
