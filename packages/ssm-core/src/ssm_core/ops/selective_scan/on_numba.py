"""The selective scan by compiled loops; the kernels are in `numba_real` and `numba_complex`.

Mamba's own case, real A and a_bar = exp(dt A), has a kernel in the precision of the data. Everything else, complex A or
another discretisation, is computed by one kernel for complex A in float64, real A having no imaginary part there.
"""

import numpy as np
import torch
from torch import Tensor

from ssm_core.opkit.numba_runtime import launch, offsets_of, rows_of
from ssm_core.ops.selective_scan import numba_complex, numba_real
from ssm_core.ops.selective_scan.core import CHUNK, slots
from ssm_core.ops.selective_scan.discretization import METHODS
from ssm_core.ops.selective_scan.numba_real import BLOCK

# A thread should get at least this many (step, channel, state) triples.
_GRAIN = 1 << 16


def forward(u, dt, A, B, C, initial_state, cu_seqlens, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """y (B,L,D), the state (B or S,D,N) after each sequence, and the kept states (slots,N,D)."""
    wide = _Wide(A, method)
    offsets, blocks = offsets_of(u, cu_seqlens), _blocks(A.shape[0], B, C)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    state = wide.states(initial_state, len(offsets) - 1)
    kept = wide.zeros(slots(int(offsets[-1]), len(offsets) - 1), A.shape[1], A.shape[0], dtype=A.dtype)
    arrays = (
        *(rows_of(u), rows_of(dt), wide.eigenvalues(), *wide.matrix(B, blocks), *wide.matrix(C, blocks)),
        *(rows_of(y), wide.numpy(state), wide.numpy(kept), offsets, blocks, CHUNK, *wide.options),
    )
    _launch(wide.kernels.forward, arrays, offsets, blocks, A)
    return y, wide.narrowed(state.mT), wide.narrowed(kept)


def backward(
    u, dt, A, B, C, initial_state, cu_seqlens, kept, grad_y, grad_state, method: str
) -> tuple[Tensor | None, ...]:
    """Gradients of u, dt, A, B, C and the initial state."""
    wide = _Wide(A, method)
    offsets, blocks = offsets_of(u, cu_seqlens), _blocks(A.shape[0], B, C)
    grad_u, grad_dt = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, dt))
    carry = wide.states(grad_state, len(offsets) - 1)
    grad_A = torch.zeros_like(carry)
    parts = [_partials(m, blocks, carry) for m in (B, C)]
    arrays = (
        *(rows_of(u), rows_of(dt), wide.eigenvalues(), *wide.matrix(B, blocks), *wide.matrix(C, blocks)),
        *(wide.numpy(kept), rows_of(grad_y), rows_of(grad_u), rows_of(grad_dt), wide.numpy(grad_A)),
        *(*(wide.numpy(part) for part in parts), wide.numpy(carry), offsets, blocks, CHUNK, *wide.options),
    )
    _launch(wide.kernels.backward, arrays, offsets, blocks, A)
    grad_B, grad_C = (
        wide.narrowed(_gathered(part, m, blocks)) for part, m in zip(parts, (B, C), strict=True)
    )
    grad_initial = None if initial_state is None else wide.narrowed(carry.mT)
    return grad_u, grad_dt, wide.narrowed(grad_A.sum(0).mT), grad_B, grad_C, grad_initial


class _Wide:
    """Operands in the form that the kernels for this A and discretisation take, and results back from it."""

    def __init__(self, A: Tensor, method: str) -> None:
        self.A = A
        self.real = not A.is_complex() and method == "euler"
        self.kernels = numba_real if self.real else numba_complex
        scale = 2.0 if A.is_complex() else 1.0
        self.options = () if self.real else (METHODS.index(method), scale)
        self.dtype = A.dtype if self.real else torch.complex128

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An array the kernels write: of this dtype, made complex if they are for complex A."""
        return torch.zeros(shape, dtype=dtype if self.real else torch.promote_types(dtype, torch.complex64))

    def states(self, given: Tensor | None, rows: int) -> Tensor:
        """States (S, N, D) for the kernels to work on, a copy of those given (S, D, N) or zeros."""
        zeros = torch.zeros(rows, self.A.shape[1], self.A.shape[0], dtype=self.dtype)
        return zeros if given is None else zeros.copy_(given.mT)

    def eigenvalues(self) -> np.ndarray:
        """A (N, D); for the complex kernels Re a, Im a, Re 1/a, Im 1/a (4, N, D)."""
        a = self.A.mT.to(self.dtype)
        if self.real:
            return self.numpy(a)
        inverse = torch.where(a == 0, 0.0, 1.0 / torch.where(a == 0, 1.0, a))
        return torch.stack([a.real, a.imag, inverse.real, inverse.imag]).detach().numpy()

    def matrix(self, m: Tensor, blocks: np.ndarray) -> tuple[np.ndarray, bool]:
        """B or C as (steps, G, N), or as (1, N, D) if it is the same at every step; and whether it is."""
        m = m.to(self.dtype)
        if m.ndim == 2:
            return self.numpy(m.mT[None]), True
        groups = int(blocks[-1, 2]) + 1 if len(blocks) else 1
        return self.numpy(m.expand(-1, -1, groups, -1).flatten(0, 1)), False

    def numpy(self, tensor: Tensor) -> np.ndarray:
        """The array itself where it is contiguous; complex numbers as pairs of columns."""
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if self.real:
            return tensor.numpy()
        if not tensor.is_complex():
            tensor = tensor.to(torch.complex128)
        return torch.view_as_real(tensor).flatten(-2).numpy()

    def narrowed(self, tensor: Tensor) -> Tensor:
        """A result in the dtype of A."""
        tensor = tensor.real if tensor.is_complex() and not self.A.is_complex() else tensor
        return tensor.to(self.A.dtype)


def _launch(kernel, arrays: tuple, offsets: np.ndarray, blocks: np.ndarray, A: Tensor) -> None:
    grain = max(1, _GRAIN // max(1, A.numel() // max(1, len(blocks))))
    launch(kernel, arrays, offsets, len(blocks), lanes=1, grain=grain)


def _blocks(width: int, *matrices: Tensor) -> np.ndarray:
    """(first channel, last, group) of each block, none across groups: unsigned, see `numba_runtime.ONE`."""
    groups = max([m.shape[2] for m in matrices if m.ndim == 4], default=1)
    size = width // groups
    rows = [
        (group * size + start, min(group * size + start + BLOCK, (group + 1) * size), group)
        for group in range(groups)
        for start in range(0, size, BLOCK)
    ]
    return np.array(rows, dtype=np.uint64).reshape(-1, 3)


def _partials(m: Tensor, blocks: np.ndarray, carry: Tensor) -> Tensor:
    """Where the gradient of B or C is gathered: (S, N, D) if fixed, else (blocks, steps, N)."""
    if m.ndim == 2:
        return torch.zeros_like(carry)
    return carry.new_empty(len(blocks), m.shape[0] * m.shape[1], m.shape[3])


def _gathered(partial: Tensor, m: Tensor, blocks: np.ndarray) -> Tensor:
    """The gradient of B or C from what each sequence or block has of it."""
    if m.ndim == 2:
        return partial.sum(0).mT
    of_group = torch.from_numpy(blocks[:, 2].astype(np.int64)) % m.shape[2]
    found = partial.new_zeros(m.shape[2], *partial.shape[1:])
    found.index_add_(0, of_group, partial)  # in the order of the blocks, on a CPU
    return found.movedim(0, 1).reshape(m.shape)
