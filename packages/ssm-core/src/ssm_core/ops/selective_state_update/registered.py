"""One step of the selective scan as a registered torch operator."""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.operator import operator


def _fake(x, state, dt, A, B, C, D, z, dt_bias, softplus, method) -> tuple[Tensor, ...]:
    dtype = compute_dtype(x, state, dt, A, B, C, D, z, dt_bias)
    return x.new_empty(x.shape), x.new_empty(state.shape, dtype=dtype)


update = operator(
    "ssm_core::selective_state_update",
    "x state dt A B C D? z? dt_bias?",
    "bool dt_softplus, str method",
    _fake,
    constant=(),
)
"""(x, state, dt, A, B, C, D, z, dt_bias, dt_softplus, method, backend) -> (y, state); A, B, C and the state are all
real, or all complex."""
