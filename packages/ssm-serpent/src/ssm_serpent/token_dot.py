"""w . x_l of each token, the same bits whatever stands beside it, in little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 17
"""Products at once on a CPU: what a core's cache holds, with their copy in float64."""


def token_dot(x_bld: Tensor, weight: Tensor) -> Tensor:
    """Return w . x_l (B, L) in float64, of tokens (B, L, D) and a weight (D,).

    Added up in float64: a matrix product rounds a token differently with the length of the sequence, and a bit is
    enough to move a tick. So the whole, its prefix and a single token agree. Products are in float32 at least, and in
    the wider precision of the two. Of ``(x * w).sum(-1)`` autograd would make several tensors as large as x, one of
    them in float64.
    """
    return _TokenDot.apply(x_bld, weight)  # pyright: ignore[reportReturnType]


class _TokenDot(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x_bld: Tensor, weight: Tensor) -> Tensor:
        wide = _wide(x_bld, weight)
        w = weight.to(wide)
        # Contiguous, since torch adds in another order what lies in another.
        products = ((x.to(wide) * w).contiguous() for x in _blocks(x_bld))
        return torch.cat([product.sum(-1, dtype=torch.float64) for product in products], 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_bl: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_bld, weight = ctx.saved_tensors
        wide = _wide(x_bld, weight)
        grad_x = grad_w = None
        # Of the caller, who may run the backward pass within his autocast.
        with torch.autocast(x_bld.device.type, enabled=False):
            grad_bl = grad_bl.to(wide)
            if ctx.needs_input_grad[0]:
                grad_x = (grad_bl[..., None] * weight.to(wide)).to(x_bld.dtype)
            if ctx.needs_input_grad[1]:
                grad_w = torch.einsum("bl,bld->d", grad_bl, x_bld.to(wide)).to(weight.dtype)
        return grad_x, grad_w


def _wide(x: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


def _blocks(x_bld: Tensor) -> tuple[Tensor, ...]:
    """Divide along L; not in a compiled graph, whose compiler sees to that, nor where each piece is a launch."""
    if torch.compiler.is_compiling() or x_bld.device.type != "cpu":
        return (x_bld,)
    batch, length, width = x_bld.shape
    return x_bld.split(max(1, min(length, _BLOCK // max(1, batch * width))), 1)
