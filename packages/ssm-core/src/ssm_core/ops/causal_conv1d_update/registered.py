"""One step of the causal convolution as a registered torch operator."""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.operator import operator


def _fake(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, ...]:
    dtype = compute_dtype(x, state, weight, bias)
    return x.new_empty(x.shape), x.new_empty(state.shape, dtype=dtype)


update = operator(
    "ssm_core::causal_conv1d_update", "x state weight bias?", "str activation", _fake, constant=()
)
"""(x, state, weight, bias, activation, backend) -> (y, state)."""
