"""What a launch of the state-space dual's kernels needs: operands laid out, chunks, blocks, compile-time constants."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core.opkit.checks import compute_dtype
from ssm_core.opkit.triton_runtime import arithmetic
from ssm_core.ops.ssd_scan._chunks import Chunks, chunks

HALVES = (torch.float16, torch.bfloat16)


class Shape(NamedTuple):
    """How work is cut: Q steps in a chunk, P and N in tiles; those of the gradient kernels; warps of a program."""

    Q: int
    TILE: int
    GRADIENT_TILE: int
    num_warps: int


# The largest blocks that leave the gradient kernels (nearly) all their values in registers. Short sequences, and double
# precision, take the small one.
_SMALL, _SINGLE, _HALF = Shape(16, 32, 16, 4), Shape(32, 32, 32, 8), Shape(64, 64, 16, 8)


def shape_for(dtypes: tuple[torch.dtype, ...], length: int) -> Shape:
    """The shape for operands x, B, C of these dtypes, and chunks that had better have `length` steps."""
    if length < 32 or torch.float64 in dtypes:
        return _SMALL
    return _HALF if all(dtype in HALVES for dtype in dtypes) else _SINGLE


class Plan:
    """Operands laid out for the kernels, the chunks, and the arguments that all kernels share."""

    def __init__(self, tensors: tuple[Any, ...], cu_seqlens: Tensor | None, chunk_size: int) -> None:
        x, dt, A, B, C, D, z, initial_state = tensors
        rows, length, heads, width = x.shape
        self.dtype = compute_dtype(*tensors)
        offsets = torch.arange(rows + 1, device=x.device) * length if cu_seqlens is None else cu_seqlens
        length = rows * length
        self.sequences = offsets.shape[0] - 1
        wanted = min(chunk_size, -(-length // max(self.sequences, 1)))
        double = self.dtype == torch.float64
        self.shape = shape_for((torch.float64,) if double else (x.dtype, B.dtype, C.dtype), wanted)
        self.chunks: Chunks = chunks(offsets, length, self.shape.Q)
        self.count, self.length = len(self.chunks.start), length
        self.sizes = heads, B.shape[2], width, B.shape[3]
        self.x, self.dt, self.B, self.C = (steps_of(m) for m in (x, dt, B, C))
        self.z = None if z is None else steps_of(z)
        self.A, device = A.to(self.dtype).contiguous(), x.device
        skip = torch.zeros(heads, dtype=self.dtype, device=device) if D is None else D.to(self.dtype)
        self.D = (skip[:, None] if skip.ndim == 1 else skip).expand(heads, width).contiguous()
        sums = torch.empty(2, self.count, heads, self.shape.Q, dtype=self.dtype, device=device)
        self.high, self.low = sums
        state = (self.sequences, heads, width, B.shape[3])
        self.start = (
            torch.zeros(state, dtype=self.dtype, device=device)
            if initial_state is None
            else initial_state.to(self.dtype).contiguous()
        )
        half = all(m.dtype in HALVES for m in (x, B, C))
        self.constants = constants(self.shape, self.dtype, half)
        self.gated = {"GATED": z is not None}
        self.gradient = {**self.gated, "TILE": self.shape.GRADIENT_TILE}
        self.gate = self.x if self.z is None else self.z

    def tiles(self, size: int) -> int:
        """Tiles that cover P or N."""
        return -(-size // self.shape.TILE)

    def launch(self, kernel: Callable, grid: tuple[int, ...], arguments: tuple, fixed: dict) -> None:
        """Launch a kernel with products."""
        launch(kernel, grid, arguments, {**self.constants, **fixed}, self.shape.num_warps)


def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple, fixed: dict, num_warps: int) -> None:
    """Launch a kernel: its arguments in order, its compile-time constants by name."""
    kernel[grid](*arguments, **fixed, num_warps=num_warps, num_stages=1)


def steps_of(x: Tensor) -> Tensor:
    """(B, L, ...) as (B L, ...) with whatever stride between steps, none within one."""
    x = x.flatten(0, 1)
    return x if x[:1].is_contiguous() else x.contiguous()


def constants(shape: Shape, dtype: torch.dtype, half: bool) -> dict[str, Any]:
    """What is constant in every kernel with products; `half` if all operands are."""
    precision = "tf32" if half and dtype == torch.float32 else "ieee"
    return {"Q": shape.Q, "TILE": shape.TILE, "DTYPE": arithmetic(dtype), "PRECISION": precision}
