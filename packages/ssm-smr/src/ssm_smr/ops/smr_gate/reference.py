"""The gate as a time loop: the definition, and the oracle of the tests."""

from itertools import pairwise

import torch
from torch import Tensor


def smr_gate(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    gate_scale: float = 1.0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """u'_k = s sigmoid(b + sum_i W_i u_{k-i}) u_k; see `ssm_smr.smr_gate`. Any dtype, ordinary autograd."""
    edges = None if cu_seqlens is None else cu_seqlens.tolist()
    rows = len(u) if edges is None else len(edges) - 1
    state = u.new_zeros(rows, weight.shape[-1] - 1, u.shape[2]) if initial_state is None else initial_state
    if edges is None:
        return _run(u, weight, bias, gate_scale, state)
    spans = enumerate(pairwise(edges))
    parts = [_run(u[:, i:j], weight, bias, gate_scale, state[s : s + 1]) for s, (i, j) in spans]
    return torch.cat([u[:, :0], *(y for y, _ in parts)], 1), torch.cat([state[:0], *(s for _, s in parts)])


def _run(u: Tensor, weight: Tensor, bias: Tensor | None, gate_scale: float, state: Tensor):
    out = []
    letters = "bth,oht->bo" if weight.ndim == 3 else "bth,ht->bh"
    for u_k in u.unbind(1):
        window = torch.cat([state, u_k[:, None]], 1)  # (B, tau, H)
        z = torch.einsum(letters, window, weight)
        z = z if bias is None else z + bias
        out.append(gate_scale * torch.sigmoid(z) * u_k)
        state = window[:, 1:]
    return torch.stack(out, 1) if out else u, state
