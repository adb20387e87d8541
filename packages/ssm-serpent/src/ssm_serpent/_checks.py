"""Checks on tensor contents that neither wait for a GPU nor break a compiled graph."""

from __future__ import annotations

import torch
from torch import Tensor


def require(ok: Tensor, message: str) -> None:
    """Raise unless every element of `ok` is true.

    In eager mode on a CPU this is a ValueError. On CUDA, and inside `torch.compile`, it is an asynchronous
    assertion: reading the answer would stop the host until the device has caught up.

    Args:
        ok: bool, any shape.
        message: what is wrong, where, and what to do.

    Raises:
        ValueError: on a CPU, in eager mode.
        RuntimeError: from the device assertion otherwise, at the next synchronisation on CUDA.
    """
    if ok.device.type == "cpu" and not torch.compiler.is_compiling():
        if not bool(ok.all()):
            raise ValueError(message)
        return
    torch._assert_async(ok.all(), message)  # pyright: ignore[reportPrivateImportUsage]
