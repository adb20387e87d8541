"""Checks on what is handed to an operation; messages say which operation and argument, what was found and expected."""

from itertools import pairwise

import torch
from torch import Tensor

_HALVES = (torch.float16, torch.bfloat16)


def check_shape(op: str, name: str, tensor: Tensor, *allowed: tuple[int, ...], letters: str) -> None:
    """Raise a ValueError unless the tensor's shape is one of `allowed`; `letters` says what they stand for."""
    if not any(tuple(tensor.shape) == tuple(shape) for shape in allowed):
        expected = " or ".join(str(tuple(shape)) for shape in allowed)
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}, expected {expected}, that is {letters}"
        )


def check_numeric(op: str, **tensors: Tensor | None) -> None:
    """Raise unless every tensor given is floating or complex and all lie on one device."""
    device = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ValueError(
                f"{op}: {name} has dtype {tensor.dtype}, expected a floating or complex one: convert it"
            )
        if device is not None and tensor.device != device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}, the arguments before it on {device}: move it"
            )
        device = tensor.device


def check_real(op: str, **tensors: Tensor | None) -> None:
    """Raise if one of the tensors given is complex."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.is_complex():
            raise ValueError(f"{op}: {name} is complex ({tensor.dtype}), expected a real dtype")


def check_cu_seqlens(op: str, cu_seqlens: Tensor, batch_size: int, device: torch.device) -> None:
    """Raise unless the offsets look like FlashAttention's: integers (S+1,), beside a batch of one."""
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.shape[0] < 1:
        raise ValueError(
            f"{op}: cu_seqlens has shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}, "
            "expected int32 (S+1,): 0, the end of each sequence"
        )
    if batch_size != 1:
        raise ValueError(
            f"{op}: cu_seqlens packs sequences along time, so the batch must be 1, not {batch_size}"
        )
    if cu_seqlens.device != device:
        raise ValueError(
            f"{op}: cu_seqlens is on {cu_seqlens.device}, the other arguments on {device}: move it"
        )


def check_offsets(op: str, cu_seqlens: Tensor, length: int) -> None:
    """Raise unless the offsets climb from 0 to the packed length. Reads values: call it on CPU tensors only."""
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != length or any(later < sooner for sooner, later in pairwise(ends)):
        raise ValueError(f"{op}: cu_seqlens must climb from 0 to the packed length {length}, but is {ends}")


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype to compute in: the widest given, but at least float32; complex if any is."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, torch.float32 if tensor.dtype in _HALVES else tensor.dtype)
    return dtype


def output_dtype(activation: Tensor, computed: torch.dtype) -> torch.dtype:
    """The dtype an output takes: the activation's precision, complex if it was computed so."""
    if not computed.is_complex or activation.is_complex():
        return activation.dtype
    return torch.complex128 if activation.dtype == torch.float64 else torch.complex64
