"""The causal convolution as a registered torch operator."""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.operator import operator


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x, weight, bias, initial_state)
    return x.new_empty(x.shape), x.new_empty(state_shape(x, weight, cu_seqlens), dtype=dtype)


def state_shape(x: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    """(B, W-1, H), or (S, W-1, H) for a pack."""
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return rows, weight.shape[-1] - 1, x.shape[2]


convolve = operator(
    "ssm_core::causal_conv1d", "x weight bias? initial_state? cu_seqlens?", "str activation", _fake
)
