"""The causal depthwise convolution as a time loop: the definition, and the oracle of the tests."""

from itertools import pairwise

import torch
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "",
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = activation(b + sum_i w_i x_{t-i}); see `ssm_core.ops.causal_conv1d`. Any dtype, ordinary autograd."""
    edges = None if cu_seqlens is None else cu_seqlens.tolist()
    rows = len(x) if edges is None else len(edges) - 1
    state = x.new_zeros(rows, weight.shape[1] - 1, x.shape[2]) if initial_state is None else initial_state
    if edges is None:
        return _run(x, weight, bias, activation, state)
    spans = enumerate(pairwise(edges))
    parts = [_run(x[:, i:j], weight, bias, activation, state[s : s + 1]) for s, (i, j) in spans]
    return torch.cat([x[:, :0], *(y for y, _ in parts)], 1), torch.cat([state[:0], *(s for _, s in parts)])


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, state: Tensor):
    out = []
    for x_t in x.unbind(1):
        window = torch.cat([state, x_t[:, None]], 1)  # (B, W, H)
        z = (window * weight.T).sum(1)
        z = z if bias is None else z + bias
        out.append(z * torch.sigmoid(z) if activation == "silu" else z)
        state = window[:, 1:]
    return torch.stack(out, 1) if out else x, state
