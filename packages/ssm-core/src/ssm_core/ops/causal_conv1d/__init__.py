"""The causal depthwise convolution over the last W inputs."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import compute_dtype
from ssm_core.ops.causal_conv1d import reference
from ssm_core.ops.causal_conv1d.arguments import check
from ssm_core.ops.causal_conv1d.autograd import convolve
from ssm_core.ops.causal_conv1d_update import causal_conv1d_update

__all__ = ["causal_conv1d", "causal_conv1d_update"]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its own short filter: y_t = activation(b + sum_i w_i x_{t-i}), i = 0, ..., W-1.

    The short convolution before the recurrence of H3 and Mamba (Gu & Dao 2023, arXiv 2312.00752, section 3.4). The
    convolution is computed anew in backward: nothing of size (B, L, H) is kept but x.

    Args:
        x: Inputs, real (B, L, H), any strides, L = 0 included.
        weight: Filters, real (H, W), any W >= 1; ``weight[:, -1]`` is the current step's, ``weight[:, 0]`` the oldest.
        bias: (H,), or None.
        activation: None, or "silu" (also called "swish"): z sigmoid(z).
        initial_state: The W - 1 inputs before the first, oldest first: (B, W-1, H); (S, W-1, H) with `cu_seqlens`;
            zeros if None.
        cu_seqlens: int32 (S+1,), offsets 0, ..., L of S sequences packed end to end in a batch of one, empty ones
            included. No tap crosses from one to the next.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        y (B, L, H) in the dtype of x, and the last W - 1 inputs (B, W-1, H) or (S, W-1, H), those of the initial state
        included where a sequence is shorter; both differentiable (once; on "reference" to any order). Arithmetic
        and the state are in float32 at least, or the widest dtype given, also under autocast.

    Raises:
        ValueError: Shapes, dtypes, devices, offsets or `activation` do not fit; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Example:
        >>> x, weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1), torch.tensor([[10.0, 1.0]])
        >>> y, state = causal_conv1d(x, weight)
        >>> y.flatten().tolist(), state.flatten().tolist()
        ([1.0, 12.0, 23.0], [3.0])
    """
    backend = dispatch.requested("causal_conv1d", backend)
    check("causal_conv1d", x, weight, bias, activation, initial_state, cu_seqlens)
    name = "silu" if activation else ""
    with torch.autocast(x.device.type, enabled=False):
        if backend != "reference":
            y, state = convolve(x, weight, bias, initial_state, cu_seqlens, name, backend)
            return y, state
        dtype = compute_dtype(x, weight, bias, initial_state)
        bias, initial_state = (None if t is None else t.to(dtype) for t in (bias, initial_state))
        operands = x.to(dtype), weight.to(dtype), bias, name, initial_state
        y, state = reference.causal_conv1d(*operands, cu_seqlens=cu_seqlens)
        return y.to(x.dtype), state


def _probe(backend: str) -> Tensor:
    x, weight = torch.arange(12.0).view(2, 3, 2), torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
    return causal_conv1d(x, weight, torch.ones(2), "silu", backend=backend)[0]


dispatch.register("causal_conv1d", _probe)
