"""Reading points back in plain torch calls, on any device: a gather, and sums over runs of tokens for the gradient."""

import torch
from torch import Tensor

from ssm_serpent.ops._segments import segment_sums


def forward(y: Tensor, point: Tensor, before: Tensor | None) -> tuple[Tensor]:
    """(B, L, h). Clean inputs of one dtype assumed."""
    if point.device.type == "cpu":
        check_points(point, y.shape[1])
    none = (point == 0)[..., None]
    start = y.new_zeros(()) if before is None else before[:, None]
    if y.shape[1] == 0:
        return (start.expand(*point.shape, y.shape[2]).clone(),)
    base_b1 = torch.arange(len(y), device=y.device)[:, None] * y.shape[1]
    rows = (point - 1).clamp_(min=0).add_(base_b1).flatten()
    out = y.flatten(0, 1).index_select(0, rows).view(*point.shape, y.shape[2])
    return (torch.where(none, start, out),)


def backward(y: Tensor, point: Tensor, before: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of y, and of what stood before."""
    read = point > 0
    grad_y = segment_sums(grad.masked_fill(~read[..., None], 0), edges(point, y.shape[1]))
    if before is None:
        return grad_y, None
    return grad_y, grad.masked_fill(read[..., None], 0).sum(1)


def edges(point: Tensor, n_points: int) -> Tensor:
    """First token that reads point k, and the end of the last one's: (B, K + 1). Between them, runs in order."""
    # Padding reads no point; as part of the last run it adds zeros.
    sorted_bl = torch.nn.functional.pad(point, (1, 0)).cummax(1).values[:, 1:].contiguous()
    k = torch.arange(1, n_points + 2, device=point.device)
    return torch.searchsorted(sorted_bl, k.expand(len(point), -1).contiguous())


def check_points(point: Tensor, n_points: int) -> None:
    """Raise a ValueError unless points exist and do not decrease but for zeros at the end. CPU only: reads values."""
    if point.numel() == 0:
        return
    if (point < 0).any() or (point > n_points).any():
        raise ValueError(
            f"spread: point_bl must lie in 0..{n_points}, the K rows of y_bkh counted from 1 and 0 for none; take it "
            "from ssm_serpent.index.resample_index"
        )
    falls = point[:, 1:] < point[:, :-1]
    if (falls & (point[:, 1:] > 0)).any() or ((point[:, 1:] > 0) & falls.cumsum(1).bool()).any():
        raise ValueError("spread: point_bl must not decrease along a row, but for zeros at its end")
