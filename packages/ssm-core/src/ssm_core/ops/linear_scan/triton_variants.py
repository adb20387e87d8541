"""Tile sizes of the linear scan's kernels, and the configurations that dispatch can choose."""

from collections.abc import Callable, Iterator

import torch

from ssm_core.opkit.triton_runtime import Variant
from ssm_core.ops.linear_scan.triton_kernels import backward_kernel, scan_kernel

WIDE, NARROW = (4, 128), (16, 8)
"""(steps, columns) of a tile. A program is one warp, so a row of 128 columns takes it whole, in loads of 128 bits, and
time lies within each thread: the scan of a tile is plain arithmetic, with neither shuffles nor barriers. Where rows are
short, time is spread over the lanes. Small tiles leave registers for the many programs that hide memory's latency."""

WARPS = 1
_REGISTERS = {"fp32": 144, "fp64": 200}  # 14 and 10 programs at once on a multiprocessor

_INTEGERS = ("length", "chunk", "width", "direction", "varying", "packed")
_SCAN = ("a_ptr", "b_ptr", "start_ptr", "entry_ptr", "entry_state_ptr", "h_ptr", "product_ptr")
_BACKWARD = (
    *("a_ptr", "grad_h_ptr", "start_ptr", "entry_ptr", "entry_state_ptr"),
    *("h_ptr", "first_ptr", "initial_ptr", "grad_b_ptr", "grad_a_ptr"),
)
_INDICES = ("entry_ptr", "first_ptr")


def tile_for(width: int, dtype: torch.dtype) -> tuple[int, int]:
    """The tile for rows of `width` columns."""
    return NARROW if width <= 32 and dtype in (torch.float32, torch.complex64) else WIDE


def variants() -> Iterator[Variant]:
    """Every configuration, for tensors that are aligned, with rows of a multiple of 16 columns in wide tiles."""
    for element, tile in (("fp32", WIDE), ("fp32", NARROW), ("fp64", WIDE)):
        for is_complex in (False, True):
            yield _variant(
                "scan", scan_kernel, _SCAN, (*_INTEGERS, "adjoint", "summary"), element, is_complex, tile
            )
            yield _variant("backward", backward_kernel, _BACKWARD, _INTEGERS, element, is_complex, tile)


def _variant(
    name: str,
    kernel: Callable,
    pointers: tuple[str, ...],
    integers: tuple[str, ...],
    element: str,
    is_complex: bool,
    tile: tuple[int, int],
) -> Variant:
    wide, (steps, columns) = tile == WIDE, tile
    moved = 3 if kernel is scan_kernel else 5  # numbers read and written for each one of h
    types = {pointer: "*i32" if pointer in _INDICES else f"*{element}" for pointer in pointers}
    return Variant(
        name=f"linear_scan {name} {'complex ' * is_complex}{element} {steps}x{columns}",
        kernel=kernel,
        signature=types | dict.fromkeys(integers, "i32"),
        constants={"COMPLEX": is_complex, "BT": steps, "BW": columns},
        num_warps=WARPS,
        registers=_REGISTERS[element],
        aligned=(*pointers, "width") if wide else pointers,
        wide=wide,
        elements=steps * columns // (2 if is_complex else 1),
        traffic=moved * (4 if element == "fp32" else 8) * (2 if is_complex else 1),
    )
