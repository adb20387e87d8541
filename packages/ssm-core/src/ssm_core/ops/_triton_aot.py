"""Triton kernels compiled without a GPU, and what the machine code says: registers, spills, loads, arithmetic.

ptxas and cuobjdump come in Triton's wheel, so a machine without a GPU can hold every variant to its promises and
predict what bounds its time. Nothing here runs in Triton's interpreter, which compiles nothing.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssm_core.ops._triton_runtime import INTERPRETED, Variant

CAPABILITIES = (80, 90, 100)
"""Architectures that kernels are compiled for: A100, H100 and H200, B200."""

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_REGISTERS = re.compile(r"\bREG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_LOADS = ("LDG", "LDGSTS", "UBLKCP", "UTMALDG")
_STORES = ("STG",)
_FP32 = ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2")
_FP64 = ("DFMA", "DMUL", "DADD")


@dataclass(frozen=True)
class Counts:
    """Instructions of a thread in a stretch of machine code."""

    by_name: Mapping[str, int]
    """Full name, such as ``LDG.E.128``, -> how often it stands there."""

    def of(self, *roots: str) -> int:
        """Instructions whose name up to the first dot is one of these."""
        return sum(n for name, n in self.by_name.items() if name.partition(".")[0] in roots)

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self.by_name.values())

    @property
    def loads(self) -> int:
        """Loads from global memory."""
        return self.of(*_LOADS)

    @property
    def wide_loads(self) -> int:
        """Loads of 128 bits or more from global memory."""
        return sum(n for name, n in self.by_name.items() if _is(name, _LOADS) and _bits(name) >= 128)

    @property
    def bytes(self) -> int:
        """Bytes that global loads and stores move, if every one is carried out and misses the caches."""
        return sum(n * _bits(name) // 8 for name, n in self.by_name.items() if _is(name, (*_LOADS, *_STORES)))

    @property
    def special(self) -> int:
        """Special functions: exp2, reciprocal, ..."""
        return self.of("MUFU")

    @property
    def arithmetic(self) -> int:
        """Multiply-adds, multiplications and additions in single precision; packed ones count twice."""
        return self.of(*_FP32) + self.of(*(name for name in _FP32 if name.endswith("2")))

    @property
    def arithmetic_64(self) -> int:
        """The same in double precision."""
        return self.of(*_FP64)

    @property
    def local(self) -> int:
        """Loads and stores of local memory: spilled registers."""
        return self.of("LDL", "STL")


@dataclass(frozen=True)
class Figures:
    """What a compiled kernel uses.

    Attributes:
        registers: Registers of a thread.
        stack: Bytes of a thread's stack; more than 0 where registers were spilled.
        shared: Bytes of a program's shared memory.
        whole: Instructions of the whole kernel.
        loop: Instructions of its largest innermost loop; none if it has no loop.
    """

    registers: int
    stack: int
    shared: int
    whole: Counts
    loop: Counts


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
    whole, loop = read_sass(code)
    return Figures(registers, stack + local, shared + compiled.metadata.shared, whole, loop)


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


def read_sass(code: str) -> tuple[Counts, Counts]:
    """Counts of all instructions of a kernel and of its largest innermost loop.

    A loop is what lies between a branch and an earlier address that it jumps back to; a branch to itself pads the end.
    """
    found = [(int(at, 16), name, rest) for at, name, rest in _INSTRUCTION.findall(code)]
    loops = []
    for at, name, rest in found:
        targets = re.findall(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and targets and int(targets[-1], 16) < at:
            loops.append((int(targets[-1], 16), at))
    innermost = [
        (low, high)
        for low, high in loops
        if not any(low <= l and h <= high and (l, h) != (low, high) for l, h in loops)
    ]
    low, high = max(innermost, key=lambda span: span[1] - span[0], default=(0, -1))
    whole = Counter(name for _, name, _ in found if name != "NOP")
    return Counts(whole), Counts(Counter(name for at, name, _ in found if low <= at <= high))


def _is(name: str, roots: tuple[str, ...]) -> bool:
    return name.partition(".")[0] in roots


def _bits(name: str) -> int:
    """Width of an access of memory, from its name: 32 where it names none."""
    widths = [int(part.lstrip("SU")) for part in name.split(".") if part.lstrip("SU").isdigit()]
    return max((width for width in widths if width >= 8), default=32)
