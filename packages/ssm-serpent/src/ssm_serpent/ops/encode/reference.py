"""Encoding written out window by window and slot by slot: the definition, and the oracle of the tests."""

import torch
from torch import Tensor


def encode(
    x_bld: Tensor,
    start_bk: Tensor,
    inside_bkw: Tensor,
    distance_bkw: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> Tensor:
    """Eqs. (12a) and (12b); see `ssm_serpent.ops.encode`. Any dtype, ordinary autograd."""
    tokens = [row.unbind() for row in x_bld.unbind()]
    batch, n_points, window = inside_bkw.shape
    out = x_bld.new_zeros(batch, n_points, len(weight))
    rows = []
    for b in range(batch):
        for k in range(n_points):
            point = out[b, k]
            for j in range(window):
                if inside_bkw[b, k, j]:
                    gap = distance_bkw[b, k, j] - centres
                    basis = torch.exp(-log_gamma.exp() * gap**2)
                    slot = torch.cat([tokens[b][int(start_bk[b, k]) + j], basis])
                    point = point + weight[:, j] @ slot
            rows.append(point + bias if bias is not None and inside_bkw[b, k].any() else point)
    return torch.stack(rows).view_as(out) if rows else out
