"""The gate on a CPU: a depthwise one in one compiled pass each way, a dense one by torch's matrix products.

Four fifths of a dense gate's time are those products, which BLAS does; the depthwise one waits for memory, so
convolution, sigmoid and product are one loop (`ssm_core.ops.causal_conv1d.on_numba`).
"""

from torch import Tensor

from ssm_core.ops.causal_conv1d import on_numba
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
    gated, state = on_numba.forward(*operands, "gate", gate_scale)
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
    return on_numba.backward(*operands, *gradients, "gate", gate_scale)
