"""The gate that mixes channels, in matrix products, on any device: W (H, H, tau) as (output, input, time).

The products cost tau H times what the gate's own elements do, so the sigmoid is kept for the gradient, (B, L, H) more,
where a depthwise gate is computed again. With sigma the sigmoid and g the gradient of u',

    z_bar_k = s g_k u_k sigma_k (1 - sigma_k),    u_bar_k = s sigma_k g_k + sum_i W_i^T z_bar_{k+i}.
"""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.ops.causal_conv1d.history import add_final_state_gradient, final_state, join, split
from ssm_core.ops.causal_conv1d.on_torch import correlate, correlate_backward


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """u' (B,L,H), the last tau - 1 inputs (B or S,tau-1,H) and sigma (B,L,H)."""
    u, weight, bias, initial_state = _wide(u, weight, bias, initial_state)
    past = weight.shape[-1] - 1
    z, _ = split(correlate(join(u, initial_state, cu_seqlens, past), weight, bias), u, cu_seqlens, past)
    sigma = z.sigmoid()
    return (sigma * u).mul_(gate_scale), final_state(u, initial_state, cu_seqlens, past), sigma


def backward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    sigma: Tensor,
    grad_gated: Tensor,
    grad_state: Tensor,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, the weight, the bias and the initial state."""
    u, weight, bias, initial_state, grad_gated = _wide(u, weight, bias, initial_state, grad_gated)
    past = weight.shape[-1] - 1
    direct = (sigma * grad_gated).mul_(gate_scale)
    grad_z = (direct * u).mul_(1 - sigma)
    joined = join(u, initial_state, cu_seqlens, past)
    grad_joined, grad_weight = correlate_backward(joined, weight, join(grad_z, None, cu_seqlens, past))
    grad_u, grad_initial = split(grad_joined, u, cu_seqlens, past)
    add_final_state_gradient(grad_u, grad_initial, grad_state, cu_seqlens)
    return direct.add_(grad_u), grad_weight, grad_z.sum((0, 1)), grad_initial.clone()


def _wide(*tensors: Tensor | None) -> list[Tensor]:
    """The tensors in the precision of the arithmetic, None as it is."""
    dtype = compute_dtype(*tensors)
    return [x if x is None else x.to(dtype) for x in tensors]  # type: ignore[misc]
