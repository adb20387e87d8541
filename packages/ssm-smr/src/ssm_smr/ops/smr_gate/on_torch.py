"""The gate in plain torch calls, on any device: a short convolution tap by tap, then sigmoid and product.

A depthwise tap is a product, a dense one a matrix product; `ssm_core.ops.causal_conv1d` has both, and the gate as what
may follow. Backward, with z the convolution and sigma its sigmoid,

    u_bar_k = s sigma_k g_k + sum_i W_i^T z_bar_{k+i},    z_bar_k = s g_k u_k sigma_k (1 - sigma_k),

z computed anew, so nothing of size (B, L, H) is kept but u.
"""

from torch import Tensor

from ssm_core.ops.causal_conv1d import on_torch


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor]:
    """u' (B,L,H) and the last tau - 1 inputs (B or S,tau-1,H). Clean inputs of one dtype assumed."""
    return on_torch.forward(u, weight, bias, initial_state, cu_seqlens, "gate", gate_scale)


def backward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_gated: Tensor,
    grad_state: Tensor,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, the weight, the bias and the initial state."""
    operands = u, weight, bias, initial_state, cu_seqlens, grad_gated, grad_state
    return on_torch.backward(*operands, "gate", gate_scale)
