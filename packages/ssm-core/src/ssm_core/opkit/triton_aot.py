"""Triton kernels compiled without a GPU, and what the machine code says: registers, spills, loads, arithmetic.

ptxas and cuobjdump come in Triton's wheel, so a machine without a GPU can hold every variant to its promises and
predict what bounds its time. Nothing here runs in Triton's interpreter, which compiles nothing.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssm_core.opkit.machine_code import Counts, read_sass
from ssm_core.opkit.triton_runtime import INTERPRETED, Variant

CAPABILITIES = (80, 90, 100)
"""Architectures that kernels are compiled for: A100, H100 and H200, B200."""

_REGISTERS = re.compile(r"\bREG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Figures:
    """What a compiled kernel uses.

    Attributes:
        registers: Registers of a thread.
        stack: Bytes of a thread's stack; more than 0 where registers were spilled.
        shared: Bytes of a program's shared memory.
        whole: Instructions of the whole kernel.
        work: Instructions of the stretch that does its work: a loop, or all of it if it has none.
    """

    registers: int
    stack: int
    shared: int
    whole: Counts
    work: Counts


_compiled: dict[tuple[int, str, int], Figures] = {}


def compile(variant: Variant, capability: int) -> Figures:
    """Compile a variant for an architecture (80, 90, 100: compute capability times 10), once per process.

    Raises:
        RuntimeError: Triton's interpreter is on, which replaces what would be compiled.
    """
    if INTERPRETED:
        raise RuntimeError("kernels cannot be compiled in a process started with TRITON_INTERPRET=1")
    key = id(variant.kernel), variant.name, capability
    if key not in _compiled:
        _compiled[key] = _compile(variant, capability)
    return _compiled[key]


def _compile(variant: Variant, capability: int) -> Figures:
    kernel = variant.kernel
    names: list[str] = kernel.arg_names  # pyright: ignore[reportFunctionMemberAccess]
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    source = ASTSource(
        kernel,
        signature,
        {name: variant.constants[name] for name in names if name not in variant.signature},
        {(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned},
    )
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": True,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage, code = _disassemble(compiled.asm["cubin"])
    found = _REGISTERS.search(usage)
    if found is None:
        raise RuntimeError(f"{variant.name}: cuobjdump -res-usage says nothing of registers:\n{usage}")
    registers, stack, shared, local = (int(number) for number in found.groups())
    whole, work = read_sass(code)
    return Figures(registers, stack + local, shared + compiled.metadata.shared, whole, work)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, machine code) as cuobjdump prints them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = knobs.nvidia.cuobjdump.path
        return tuple(
            subprocess.run([tool, flag, str(path)], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )  # pyright: ignore[reportReturnType]
