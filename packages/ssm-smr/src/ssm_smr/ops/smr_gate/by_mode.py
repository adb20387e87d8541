"""What the gate's backends have in common: a dense one is matrix products, a depthwise one a short convolution."""

from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from ssm_smr.ops.smr_gate import dense

Function = Callable[..., tuple[Tensor, ...]]


def by_mode(convolution: ModuleType) -> tuple[Function, Function]:
    """Return forward and backward of the gate on a backend, as `ssm_core.opkit.operator` calls them.

    Args:
        convolution: The backend's module of `ssm_core.ops.causal_conv1d`, which knows the gate as what may follow it.
    """

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
        gated, state = convolution.forward(*operands, "gate", gate_scale)
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
        return convolution.backward(*operands, *gradients, "gate", gate_scale)

    return forward, backward
