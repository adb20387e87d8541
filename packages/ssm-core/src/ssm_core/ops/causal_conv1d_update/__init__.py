"""One step of the causal depthwise convolution: what a model does for each new token."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.transforms import through_operator
from ssm_core.ops.causal_conv1d.arguments import check
from ssm_core.ops.causal_conv1d_update import on_torch, reference
from ssm_core.ops.causal_conv1d_update.registered import update


def causal_conv1d_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `ssm_core.ops.causal_conv1d`; the state given is left as it is.

    Args:
        x: Input (B, H).
        state: The W - 1 inputs before it, oldest first (B, W-1, H).
        weight: Filters (H, W), ``weight[:, -1]`` the current step's.
        bias: (H,), or None.
        activation: None, "silu" or "swish".
        backend: "reference", "torch" or "triton"; None takes SSM_BACKEND or else, on CUDA tensors of which no
            derivative is asked, one Triton kernel, and plain torch operations everywhere else.

    Returns:
        y (B, H) in the dtype of x, and the new state (B, W-1, H), in float32 at least; both differentiable to any
        order, on "triton" once.

    Raises:
        ValueError: Shapes, dtypes, devices or `activation` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> y, state = causal_conv1d_update(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.tensor([[10.0, 1.0]]))
        >>> y.item(), state.item()
        (1.0, 1.0)
    """
    op = "causal_conv1d_update"
    backend = dispatch.requested(op, backend)
    _check(op, x, state, weight, bias, activation)
    name, tensors = "silu" if activation else "", (x, state, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        if through_operator(backend, *tensors):
            y, state = update(*tensors, name, backend)
            return y, state
        dtype = compute_dtype(*tensors)
        run = reference.causal_conv1d_update if backend == "reference" else on_torch.forward
        wide = None if bias is None else bias.to(dtype)
        y, state = run(x.to(dtype), state.to(dtype), weight.to(dtype), wide, name)
    return y.to(x.dtype), state


def _check(op: str, x, state, weight, bias, activation) -> None:
    if x.ndim != 2:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected (B, H)")
    check(op, x[:, None], weight, bias, activation)
    check_numeric(op, x=x, state=state)
    check_real(op, state=state)
    expected = (len(x), weight.shape[1] - 1, x.shape[1])
    check_shape(op, "state", state, expected, letters="(B, W-1, H) of this x and weight")


def _probe(backend: str) -> Tensor:
    x, weight = torch.arange(4.0).view(2, 2), torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
    state = torch.linspace(-1, 1, 8).view(2, 2, 2)
    return causal_conv1d_update(x, state, weight, torch.ones(2), "silu", backend=backend)[0]


dispatch.register("causal_conv1d_update", _probe)
