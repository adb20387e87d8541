"""The gate in plain torch calls, on any device: a short convolution tap by tap, then sigmoid and product.

`ssm_core.ops.causal_conv1d` has a depthwise one, with the gate as what may follow; backward it computes the
convolution anew, so that nothing of size (B, L, H) is kept but u. One that mixes channels is `dense`.
"""

from torch import Tensor

from ssm_core.ops.causal_conv1d import on_torch
from ssm_smr.ops.smr_gate import dense


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """u' (B,L,H), the last tau - 1 inputs (B or S,tau-1,H) and what a dense gate keeps. Clean inputs."""
    operands = u, weight, bias, initial_state, cu_seqlens
    if weight.ndim == 3:
        return dense.forward(*operands, gate_scale)
    gated, state = on_torch.forward(*operands, "gate", gate_scale)
    return gated, state, state.new_empty(0)


def backward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: Tensor,
    grad_gated: Tensor,
    grad_state: Tensor,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, the weight, the bias and the initial state."""
    operands, gradients = (u, weight, bias, initial_state, cu_seqlens), (grad_gated, grad_state)
    if weight.ndim == 3:
        return dense.backward(*operands, kept, *gradients, gate_scale)
    return on_torch.backward(*operands, *gradients, "gate", gate_scale)
