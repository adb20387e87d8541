"""Adding up what the windows say of each token: the adjoint of reading one number a token into the slots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_core.opkit import dispatch


def token_sums(values_bkw: Tensor, start_bk: Tensor, inside_bkw: Tensor, length: int) -> Tensor:
    """Sum over all slots (k, j) that hold token l, s_k + j = l: (B, L), differentiable, without atomics.

    Args:
        values_bkw: (B, K, W) float; the sums are in its precision, so hand it float64.
        start_bk: (B, K) int64, as `ssm_serpent.ops.encode` takes it.
        inside_bkw: (B, K, W) bool, True where a slot holds a token; the other slots do not count.
        length: L.
    """
    return torch.ops.ssm_serpent.token_sums(values_bkw, start_bk, inside_bkw, length)


torch.library.define(
    "ssm_serpent::token_sums", "(Tensor values, Tensor start, Tensor inside, SymInt length) -> Tensor"
)


@torch.library.impl("ssm_serpent::token_sums", "CompositeExplicitAutograd")
def _forward(values: Tensor, start: Tensor, inside: Tensor, length: int) -> Tensor:
    given = (values, start, inside, length)
    return dispatch.run_backend("forward", "token_sums", "", *given, first=values, package="ssm_serpent.ops")


@torch.library.register_fake("ssm_serpent::token_sums")
def _fake(values: Tensor, start: Tensor, inside: Tensor, length: int) -> Tensor:
    return values.new_empty(values.shape[0], length)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _backward(ctx: Any, grad_bl: Tensor) -> tuple[Tensor, None, None, None]:
    """The gradient of each token, read into its slots: in torch calls, differentiable again."""
    start_bk, inside_bkw = ctx.saved_tensors
    if grad_bl.shape[1] == 0:
        return grad_bl.new_zeros(inside_bkw.shape), None, None, None
    token_bkw = start_bk[:, :, None] + torch.arange(inside_bkw.shape[2], device=start_bk.device)
    read = grad_bl.gather(1, token_bkw.clamp(0, grad_bl.shape[1] - 1).flatten(1)).view(inside_bkw.shape)
    return read.where(inside_bkw, 0.0), None, None, None


torch.library.register_autograd("ssm_serpent::token_sums", _backward, setup_context=_setup_context)
