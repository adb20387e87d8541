"""One step of the causal convolution in torch calls, and its adjoint.

The forward is made of operations that torch differentiates to any order. The backward is for those who cannot let it:
the operator that torch knows, whose forward is a kernel on GPUs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """y (B, H), and the last W - 1 inputs (B, W-1, H)."""
    window, z = _convolved(x, state, weight, bias)
    return F.silu(z) if activation else z, window[:, 1:]


def backward(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_y: Tensor,
    grad_state: Tensor,
    activation: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the state, the weight and the bias."""
    window, z = _convolved(x, state, weight, bias)
    if activation:
        gate = torch.sigmoid(z)
        grad_y = grad_y * gate * (1.0 + z * (1.0 - gate))
    through = grad_y[:, None] * weight.T  # (B, W, H)
    past = through[:, :-1] + F.pad(grad_state, (0, 0, 1, 0))[:, :-1]
    now = through[:, -1] + (grad_state[:, -1] if grad_state.shape[1] else 0.0)
    grad_bias = None if bias is None else grad_y.sum(0)
    return now, past, (window * grad_y[:, None]).sum(0).T, grad_bias


def _convolved(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The last W inputs (B, W, H), and what the filters make of them (B, H)."""
    window = torch.cat([state, x[:, None]], 1)
    z = (window * weight.T).sum(1)
    return window, z if bias is None else z + bias
