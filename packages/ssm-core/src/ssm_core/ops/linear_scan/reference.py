"""The linear scan as a time loop: the definition, and the oracle of the tests."""

from itertools import pairwise

import torch
from torch import Tensor


def linear_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + b_t; see `ssm_core.ops.linear_scan`. Any dtype, ordinary autograd."""
    a, zeros = a.expand(b.shape), b.new_zeros(b.shape[:1] + b.shape[2:])
    if cu_seqlens is None:
        return _scan(a, b, zeros if initial_state is None else initial_state, reverse)
    parts = []
    edges = cu_seqlens.tolist()
    for s, (start, stop) in enumerate(pairwise(edges)):
        state = zeros if initial_state is None else initial_state[s : s + 1]
        parts.append(_scan(a[:, start:stop], b[:, start:stop], state, reverse))
    h = torch.cat([b[:, :0], *(h for h, _ in parts)], 1)
    return h, torch.cat([b[0, :0], *(state for _, state in parts)])


def _scan(a: Tensor, b: Tensor, state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    out = []
    steps = list(zip(a.unbind(1), b.unbind(1), strict=True))
    for a_t, b_t in reversed(steps) if reverse else steps:
        state = a_t * state + b_t
        out.append(state)
    return torch.stack(out[::-1] if reverse else out, 1) if out else b, state
