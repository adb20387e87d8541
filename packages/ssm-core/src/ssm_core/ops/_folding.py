"""Mapped axes of torch.vmap, folded into axes an operation already has."""

from collections.abc import Sequence

from torch import Tensor


def refuse_mapped(op: str, cu_seqlens_dim: int | None) -> None:
    """Raise if vmap maps over the offsets: sequences of different lengths have no common shape."""
    if cu_seqlens_dim is not None:
        raise ValueError(f"{op}: torch.vmap cannot map over cu_seqlens; pack those sequences too")


def fold(size: int, in_dims: Sequence, tensors: Sequence, axes: Sequence[int]) -> list[Tensor | None]:
    """Each tensor with its mapped axis moved to the place in `axes`, repeated (without memory) where it has none."""
    folded = []
    for x, dim, axis in zip(tensors, in_dims, axes, strict=True):
        if x is None:
            folded.append(None)
        elif dim is None:
            folded.append(x.unsqueeze(axis).expand(*x.shape[:axis], size, *x.shape[axis:]))
        else:
            folded.append(x.movedim(dim, axis))
    return folded
