"""What the Triton kernels share. Imported only by modules on_triton, once Triton is there.

Kernels are plain `triton.jit` functions: no autotuning, whose wrapper neither runs in the interpreter nor compiles
without a GPU. Sizes that a launch chooses come from a small table, and `variants()` of each module on_triton lists what
dispatch can choose, so that tests can compile every one for several architectures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import triton
import triton.language as tl
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on CPU tensors."""

MAX_GRID_YZ = 65535
"""Largest extent of a grid's second and third axis; what may be larger goes on the first."""


@dataclass(frozen=True)
class Variant:
    """One kernel as dispatch can launch it.

    Attributes:
        name: What it is, for tables: the kernel, and what sets the variant apart.
        kernel: The jitted function.
        signature: Parameter -> Triton type (``"*fp32"``, ``"*bf16"``, ``"i32"``, ``"fp32"``), constants left out.
        constants: Parameter -> value of its constexpr parameters.
        num_warps: Warps of a program.
        num_stages: Stages of software pipelining.
        registers: Most registers a thread may use for the occupancy that the launch counts on, where it counts on any;
            tests hold each variant besides to the occupancy that it had (tests/integration/kernel_limits.json).
        aligned: Pointer and size parameters to take as divisible by 16, as a launch with such tensors does.
        wide: Whether global loads of 128 bits are expected then.
        elements: Elements that a program does in one pass through its innermost loop, or from end to end if it has
            none; 0 if the number depends on the launch. Tables of predicted times need it.
        unit: What an element is, unless one of the output.
        traffic: Bytes of global memory that an element costs; 0 to count those of every load and store in the loop,
            branches not taken and hits in the caches among them.
        stack: Bytes of stack that a thread may have on any architecture: registers that the compiler spills whatever
            their number, or an array of its own, such as the slow way of a sine has.
    """

    name: str
    kernel: Callable
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int = 4
    num_stages: int = 1
    registers: int = 255
    aligned: tuple[str, ...] = field(default=())
    wide: bool = False
    elements: int = 0
    unit: str = ""
    traffic: float = 0.0
    stack: int = 0


def probe(device: torch.device) -> None:
    """Compile and run a small kernel on a device; raises whatever is wrong with Triton there."""
    out, kernel = torch.zeros(16, device=device), cast("Any", _probe_kernel)
    with torch.cuda.device_of(out):
        kernel[(1,)](out, SIZE=16)
    if out.tolist() != [float(place) for place in range(16)]:
        raise RuntimeError(f"it gave {out.tolist()}, not 0 to 15")


@triton.jit
def _probe_kernel(out, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(out + place, place.to(tl.float32))


def arithmetic(*dtypes: torch.dtype) -> tl.dtype:
    """The type kernels compute in: float64 if any tensor is, else float32."""
    return tl.float64 if any(d in (torch.float64, torch.complex128) for d in dtypes) else tl.float32


def next_power_of_2(n: int) -> int:
    """The smallest power of two of at least n, 1 for n = 0."""
    return 1 << max(n - 1, 0).bit_length()
