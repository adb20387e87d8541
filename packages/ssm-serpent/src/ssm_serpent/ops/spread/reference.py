"""Reading points back token by token: the definition, and the oracle of the tests."""

import torch
from torch import Tensor


def spread(y_bkh: Tensor, point_bl: Tensor, before_bh: Tensor | None = None) -> Tensor:
    """Eq. (15a); see `ssm_serpent.ops.spread`. Any dtype, ordinary autograd."""
    if before_bh is None:
        before_bh = y_bkh.new_zeros(y_bkh.shape[0], y_bkh.shape[2])
    rows = []
    for b in range(len(y_bkh)):
        points = [before_bh[b], *y_bkh[b].unbind()]
        rows += [points[q] for q in point_bl[b].tolist()]
    out = y_bkh.new_zeros(*point_bl.shape, y_bkh.shape[2])
    return torch.stack(rows).view_as(out) if rows else out
