"""Linear scan by Triton kernels, on CUDA tensors.

One kernel reads a and b once and writes h; the adjoint reads a, h and the gradient once and writes two. Where batch and
features alone give the device too few programs, time is cut into chunks: a first pass brings each chunk down to what it
does to a state (its product of decays, and its state from zero), the states at the chunk edges are a short scan of
those, and a last pass fills the chunks from the states they start with. That reads a and b once more.

Packed sequences keep one time axis. Where a sequence begins, the kernels take its state in place of the one before, so
neither a time-invariant `a` nor anything else is expanded.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.opkit.packing import at_first, at_last, is_first, over, state_shape
from ssm_core.ops.linear_scan.triton_kernels import backward_kernel, scan_kernel
from ssm_core.ops.linear_scan.triton_variants import WARPS, tile_for, variants

__all__ = ["backward", "forward", "variants"]

# Time is cut where there are fewer programs than this for each multiprocessor, into chunks for twice as many ...
_PROGRAMS = 4
# ... none of them shorter than this.
_SHORTEST = 256


def forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h (B,L,*F) and the state (B or S,*F) after each sequence. Clean inputs of one dtype assumed."""
    start = b.new_zeros(state_shape(b, cu_seqlens)) if initial_state is None else initial_state
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    if b.numel() == 0:
        return h, start.clone()
    scan = _Scan.of(a, b, start, cu_seqlens, reverse)
    launch(scan, scan_kernel, _starts(scan, adjoint=0), *scan.entries, h, h, adjoint=0, summary=0)
    if cu_seqlens is None:
        return h, h[:, 0 if reverse else -1].clone()
    return h, at_last(h, initial_state, cu_seqlens, reverse)


def backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_state: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a (as a), b (B,L,*F) and the initial state: lambda_t = g_t + conj(a_{t+1}) lambda_{t+1}."""
    invariant = a.ndim == h.ndim - 2
    if h.numel() == 0:
        return torch.zeros_like(a), torch.zeros_like(h), grad_state.clone()
    scan = _Scan.of(a, grad_h, grad_state, cu_seqlens, not reverse)
    initial = torch.zeros_like(grad_state) if initial_state is None else initial_state
    first = scan.entries[0] if cu_seqlens is None else _entries(cu_seqlens, h.shape[1], reverse)
    grad_b = torch.empty_like(h, memory_format=torch.contiguous_format)
    grad_a = scan.new_per_chunk() if invariant else torch.empty_like(grad_b)
    operands = (_starts(scan, adjoint=1), *scan.entries, h, first, initial, grad_b, grad_a)
    launch(scan, backward_kernel, *operands)
    a_first = a if invariant else at_first(a, cu_seqlens, reverse)
    grad_initial = torch.conj_physical(a_first) * at_first(grad_b, cu_seqlens, reverse)
    if cu_seqlens is not None:
        empty = over(cu_seqlens[1:] == cu_seqlens[:-1], grad_state)
        grad_initial = torch.where(empty, grad_state, grad_initial)
    return grad_a.sum((0, 1)) if invariant else grad_a, grad_b, grad_initial


class _Scan(NamedTuple):
    """A scan as the kernels do it.

    Attributes:
        a: Decays (B, L, *F) or (*F).
        b: Inputs (B, L, *F), or gradients in the adjoint.
        start: The state before the first step (B, *F).
        entries: (L,) the sequence entered at each step, and the states (S, *F) to take there; empty if not packed.
        reverse: Whether it goes from right to left.
        width: Columns of a row: features, twice as many if complex.
        tile: (steps, columns) of a tile.
        chunk: Steps that a program does.
    """

    a: Tensor
    b: Tensor
    start: Tensor
    entries: tuple[Tensor, Tensor]
    reverse: bool
    width: int
    tile: tuple[int, int]
    chunk: int

    @classmethod
    def of(cls, a: Tensor, b: Tensor, start: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> "_Scan":
        width = prod(b.shape[2:]) * (2 if b.is_complex() else 1)
        tile = tile_for(width, b.dtype)
        chunk = _chunk(b.shape[0] * -(-width // tile[1]), b.shape[1], tile[0], b.device)
        if cu_seqlens is None:
            entries = torch.empty(0, dtype=torch.int32, device=b.device), start
        else:
            entries = _entries(cu_seqlens, b.shape[1], reverse), start
            start = torch.zeros_like(b[:, 0])
        return cls(a, b, start, entries, reverse, width, tile, chunk)

    @property
    def chunks(self) -> int:
        return -(-self.b.shape[1] // self.chunk)

    def new_per_chunk(self) -> Tensor:
        """An empty tensor (B, chunks, *F)."""
        return self.b.new_empty((self.b.shape[0], self.chunks, *self.b.shape[2:]))


def launch(scan: _Scan, kernel: Callable, *operands: Tensor, **options: int) -> None:
    """Run a kernel on (a, b, operands): a program for each row of the batch, chunk and block of columns."""
    steps, columns = scan.tile
    grid = (scan.b.shape[0] * scan.chunks * -(-scan.width // columns),)
    kernel[grid](  # pyright: ignore[reportIndexIssue]
        *(_as_real(x) for x in (scan.a, scan.b, *operands)),
        length=scan.b.shape[1],
        chunk=scan.chunk,
        width=scan.width,
        direction=-1 if scan.reverse else 1,
        varying=int(scan.a.ndim == scan.b.ndim),
        packed=int(scan.entries[0].numel() > 0),
        **options,
        COMPLEX=scan.b.is_complex(),
        BT=steps,
        BW=columns,
        num_warps=WARPS,
        num_stages=1,
        enable_fp_fusion=True,
    )


def _as_real(x: Tensor) -> Tensor:
    """The tensor as the kernels read it: contiguous, complex numbers as pairs of columns."""
    x = x.resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(x) if x.is_complex() else x


def _starts(scan: _Scan, *, adjoint: int) -> Tensor:
    """The state before each chunk, (B, *F) or (B, chunks, *F)."""
    if scan.chunks == 1:
        return scan.start
    products, ends = scan.new_per_chunk(), scan.new_per_chunk()
    launch(scan, scan_kernel, ends, *scan.entries, ends, products, adjoint=adjoint, summary=1)
    states, _ = forward(products, ends, scan.start, None, False)
    return torch.cat([scan.start[:, None], states[:, :-1]], 1)


def _entries(cu_seqlens: Tensor, length: int, reverse: bool) -> Tensor:
    """(L,) int32: the sequence that the scan enters at each step, -1 where it enters none."""
    mask, sequence = is_first(cu_seqlens, length, reverse)
    return torch.where(mask, sequence, -1).int()


def _chunk(programs: int, length: int, steps: int, device: torch.device) -> int:
    """Steps for each program, where one for the whole length would make this many programs."""
    wanted = _PROGRAMS * _multiprocessors(device)
    if programs >= wanted or length < 2 * _SHORTEST:
        return length
    chunks = min(2 * wanted // programs, length // _SHORTEST)
    return -(-length // (chunks * steps)) * steps


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
