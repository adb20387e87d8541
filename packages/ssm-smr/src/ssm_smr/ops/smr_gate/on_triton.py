"""The gate on CUDA: a depthwise one in one pass over memory each way, a dense one by torch's matrix products.

Both are the short convolution of `ssm_core.ops.causal_conv1d.on_triton` with the gate as what follows. The products of
a dense gate are in float32 at least; torch.set_float32_matmul_precision lets them use TF32.
"""

from collections.abc import Iterator

from torch import Tensor

from ssm_core.ops._triton_runtime import Variant
from ssm_core.ops.causal_conv1d import on_triton
from ssm_smr.ops.smr_gate import dense


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """u' (B,L,H), the last tau - 1 inputs (B or S,tau-1,H) and what a dense gate keeps."""
    operands = u, weight, bias, initial_state, cu_seqlens
    if weight.ndim == 3:
        return dense.forward(*operands, gate_scale)
    gated, state = on_triton.forward(*operands, "gate", gate_scale)
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
    return on_triton.backward(*operands, *gradients, "gate", gate_scale)


def variants() -> Iterator[Variant]:
    """The kernels as dispatch launches them."""
    return on_triton.variants(("gate",))
