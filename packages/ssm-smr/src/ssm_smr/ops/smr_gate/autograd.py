"""The gate as a registered torch operator."""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.operator import operator


def _fake(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    gate_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(u, weight, bias, initial_state)
    return (
        u.new_empty(u.shape),
        u.new_empty(state_shape(u, weight, cu_seqlens), dtype=dtype),
        u.new_empty(u.shape if weight.ndim == 3 else (0,), dtype=dtype),
    )


def state_shape(u: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    """(B, tau-1, H), or (S, tau-1, H) for a pack."""
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return rows, weight.shape[-1] - 1, u.shape[2]


gate = operator(
    "ssm_smr::smr_gate",
    "u weight bias? initial_state? cu_seqlens?",
    "float gate_scale",
    _fake,
    outputs=3,
    kept=(2,),
    package="ssm_smr.ops",
)
