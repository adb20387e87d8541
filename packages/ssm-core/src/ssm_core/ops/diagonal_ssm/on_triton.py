"""The diagonal scan on CUDA tensors: discretised in torch calls as by `on_torch`, scanned by linear_scan's kernels."""

from collections.abc import Iterator

from torch import Tensor

from ssm_core.opkit.triton_runtime import Variant
from ssm_core.ops.diagonal_ssm import on_torch
from ssm_core.ops.linear_scan import on_triton as scan


def forward(
    dt: Tensor, A: Tensor, bu: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """x (B,L,N) and the state (B or S,N) after each sequence. Clean inputs of one precision assumed."""
    return on_torch.forward(dt, A, bu, initial_state, cu_seqlens, method, scan)


def backward(
    dt: Tensor,
    A: Tensor,
    bu: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    x: Tensor,
    grad_x: Tensor,
    grad_state: Tensor,
    method: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of dt (B,L,N), A (N,), bu (B,L,N) and the initial state (B or S,N)."""
    return on_torch.backward(dt, A, bu, initial_state, cu_seqlens, x, grad_x, grad_state, method, scan)


def variants() -> Iterator[Variant]:
    """None beside those of linear_scan."""
    return iter(())
