"""Operators under autograd, torch.compile and the transforms of torch.func.

An operation is a registered operator (which torch.compile sees as one node and autograd follows) and an
autograd.Function of the same derivative, the only kind of thing torch.func.grad takes. `apply` picks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad


def register(operator: str, function: type[Function]) -> None:
    """Give a registered operator the derivative and the vmap rule of a Function that calls it."""
    torch.library.register_autograd(operator, function.backward, setup_context=function.setup_context)
    torch.library.register_vmap(operator, function.vmap)


def apply(function: type[Function], operator: Callable, *args) -> tuple[Tensor, ...]:
    """Call the operator, or the Function where a transform of torch.func is at work.

    The Function would do everywhere, but costs twice the operator's overhead, and torch.compile refuses to pass it
    one tensor twice.
    """
    return function.apply(*args) if torch._C._are_functorch_transforms_active() else operator(*args)


def through_operator(backend: str, *tensors: Tensor | None) -> bool:
    """Whether an operation that has a torch form of any derivative, and a kernel of none, goes through its operator.

    A backend asked for decides; else it does where kernels run and nothing asks for a derivative. Elsewhere the torch
    form is taken as it stands, so that torch.compile sees into it.
    """
    if backend:
        return backend not in ("reference", "torch")
    on_gpu = any(x is not None and x.device.type == "cuda" for x in tensors)
    return on_gpu and not _differentiated(*tensors)


def _differentiated(*tensors: Tensor | None) -> bool:
    """Whether autograd, forward or backward, or a transform of torch.func may ask for a derivative."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def contiguous(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Outputs laid out as the operator's fake promises, whatever the strides of the inputs."""
    return tuple(x.contiguous() for x in outputs)


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
