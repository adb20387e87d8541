"""The selective scan without what is elementwise round it, as a registered operator.

The third output holds the state before every `CHUNK`-th step of each sequence, (slots, N, D): the backward pass starts
from there, so that memory is O(B L D (1 + N / CHUNK)) and not O(B L D N).
"""

from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.operator import operator

CHUNK = 32
"""Steps between two kept states."""


def slots(steps: int, sequences: int) -> int:
    """How many states are kept: sequence s, which starts at step o, keeps its own from slot o // CHUNK + s on."""
    return steps // CHUNK + sequences


def _fake(u, dt, A, B, C, initial_state, cu_seqlens, method) -> tuple[Tensor, ...]:
    (batch, length, width), n = u.shape, A.shape[1]
    rows = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = compute_dtype(u, dt, A, B, C, initial_state)
    return (
        u.new_empty(u.shape),
        u.new_empty((rows, width, n), dtype=dtype),
        u.new_empty((slots(batch * length, rows), n, width), dtype=dtype),
    )


scan = operator(
    "ssm_core::selective_scan",
    "u dt A B C initial_state? cu_seqlens?",
    "str method",
    _fake,
    outputs=3,
    kept=(2,),
)
"""(u, dt, A, B, C, initial_state, cu_seqlens, method, backend) -> (y, final state). B and C are (D, N) or (B, L, G, N);
A, B, C and the initial state are all real, or all complex."""
