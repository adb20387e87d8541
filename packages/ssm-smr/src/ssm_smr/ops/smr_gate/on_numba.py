"""The gate on a CPU: a depthwise one in one compiled pass each way, a dense one by torch's matrix products.

Four fifths of a dense gate's time are those products, which BLAS does; the depthwise one waits for memory, so
convolution, sigmoid and product are one loop (`ssm_core.ops.causal_conv1d.on_numba`).
"""

from torch import Tensor

from ssm_core.ops.causal_conv1d import on_numba, on_torch


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor]:
    """u' (B,L,H) and the last tau - 1 inputs (B or S,tau-1,H). Clean inputs of one dtype assumed."""
    module = on_torch if weight.ndim == 3 else on_numba
    return module.forward(u, weight, bias, initial_state, cu_seqlens, "gate", gate_scale)


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
    module = on_torch if weight.ndim == 3 else on_numba
    operands = u, weight, bias, initial_state, cu_seqlens, grad_gated, grad_state
    return module.backward(*operands, "gate", gate_scale)
