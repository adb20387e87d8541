"""What the machine code of every Triton kernel says, as a page: docs/results/kernels-sass.md.

Run it as `python scripts/kernel_table.py`. It needs Triton and no GPU, and takes a second or two for each configuration
and architecture, less once Triton has them in its cache. Where no stretch of the machine code can be the one that does
a kernel's work, it says which kernel that is and writes no page. With `--limits` it also writes the registers and bytes
of stack that tests hold kernels to: of what the page shows, and with `--all` of every one on every architecture.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workspace import ROOT

if TYPE_CHECKING:
    from ssm_core.opkit.triton_aot import Figures
    from ssm_core.opkit.triton_runtime import Variant

PACKAGES = ("ssm_core.ops", "ssm_smr.ops", "ssm_serpent.ops")
"""Where operations live."""

PAGE = ROOT / "docs" / "results" / "kernels-sass.md"
LIMITS = ROOT / "tests" / "integration" / "kernel_limits.json"
"""Configuration -> architecture -> [registers, bytes of stack] as they were measured."""

CAPABILITIES = (80, 90, 100)
SHOWN = 90
"""The architecture for which the page has every configuration, and times."""

MOST = 3
"""Configurations of an operation that the page shows for the other architectures."""

SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
"""Bytes of shared memory of a multiprocessor."""

MULTIPROCESSORS, CLOCK, BANDWIDTH = 132, 1.98e9, 4.3e12
"""Of an H200: multiprocessors, Hz, bytes a second as a copy reaches them."""

LANES = {"MUFU": 16, "fp32": 128, "fp64": 64, "issue": 128}
"""Threads whose instruction of a kind a multiprocessor starts in a clock."""

PRODUCTS = {"fp64": 128, "tf32": 1024, "half": 2048, "byte": 4096}
"""Multiply-adds of the tensor cores of a multiprocessor in a clock, by what they multiply."""

FEWEST = 16
"""Instructions of the least stretch that is taken for a kernel's work."""

INTRODUCTION = """# Machine code of the kernels

Configurations of the Triton kernels that dispatch can choose, compiled ahead of time by Triton {version} without a GPU,
with pointers and the sizes that usually are so divisible by 16; for sm_80 and sm_100, of an operation with many, some
spread over all.
Everything here is counted or **predicted, not measured**: a time says what a kernel cannot be faster than, not how fast
it is.

<!-- not run: takes minutes -->
```bash
uv run python scripts/kernel_table.py
```

*registers*
: of a thread.

*occupancy*
: warps that fit on a multiprocessor at once, of 64, by registers (65,536, handed out in eights a thread), shared memory
  (164 KiB on sm_80, else 228 KiB; a program costs 1 KiB more than it asks for) and 32 programs.

*stack*
: bytes of a thread in local memory: registers that were spilled, or, of a kernel with sines, the digits that the slow
  way of one works with.

*loads, wide*
: of global memory, by a thread in one pass through the loop that does the work; those of 128 bits.

*MUFU, FMA, MMA, all*
: in that pass, special functions (exp2, reciprocal, ...); multiply-adds, multiplications and additions, of single and,
  behind a plus sign, of double precision; instructions of the tensor cores (a warp's, or one thread's on sm_100); all
  instructions.

*ps/element*
: on an H200 (132 multiprocessors at 1.98 GHz, 4.3 TB/s), where the loop does a known number of elements (of the
  output, or of what the cell says): the largest of the bytes of an element over 4.3 TB/s and, over (elements of a pass
  times 132 times 1.98 GHz), the threads of a program times MUFU / 16, FMA / 128 (64 in double precision) and all / 128,
  and what its warps multiply in tensor cores over 128 products of float64 in a clock, 1024 of TF32 and 2048 of half
  precision; *bound by* says which. Bytes are those that have to come from memory and go there, at usual sizes; what
  programs share or read again is taken to come from the caches. Where the elements of a pass are not known, the time is
  that of one pass of one program and leaves memory out.

**Which loop.** What lies between an address and a branch back to it, which nothing else reaches, is a loop. A loop that
neither computes in floating point nor stores does no work: it waits, or it is the slow way of a sine or cosine, which
arguments below 105,615 jump over. Of the other loops that hold no other such loop, the one with most instructions is
counted, and what is jumped over with a slow way is not; in kernels of integers alone a loop works that loads. Other
branches not taken are counted as if taken. Without a loop, the whole kernel is counted. A count is refused, and with it
this page, if it is of fewer than {fewest} instructions, or has no access of global memory or, in a kernel that computes
in floating point, nothing that does.
"""

HEADER = """
| kernel | for | registers | stack | occupancy | loads, wide | MUFU | FMA | MMA | all | ps/element | bound by |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def modules() -> list[str]:
    """Every module on_triton of an operation, by name."""
    found = []
    for package in PACKAGES:
        spec = None
        if importlib.util.find_spec(package.partition(".")[0]) is not None:
            spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            files = sorted(Path(folder).glob("*/on_triton.py"))
            found += [f"{package}.{file.parent.name}.on_triton" for file in files]
    return found


def variants(module: str) -> list[Variant]:
    """What a module on_triton can launch."""
    return list(importlib.import_module(module).variants())


def occupancy(registers: int, shared: int, warps: int, capability: int) -> int:
    """Warps of 64 that a multiprocessor holds at once."""
    by_memory = SHARED[capability] // (shared + 1024)
    return min(_by_registers(registers, warps), by_memory) * warps


def _by_registers(registers: int, warps: int) -> int:
    """Programs that a multiprocessor holds at once, were it not for shared memory."""
    return min(32, 64 // warps, 65536 // (-(-registers // 8) * 8 * 32 * warps))


def most_registers(registers: int, warps: int) -> int:
    """The most registers that leave room for as many programs as these do."""
    return min(255, 65536 // (_by_registers(registers, warps) * 32 * warps) // 8 * 8)


def read_limits() -> dict[str, dict[str, list[int]]]:
    """What `write_limits` wrote."""
    return json.loads(LIMITS.read_text(encoding="utf-8"))


def write_limits(pairs: Iterable[tuple[Variant, int]]) -> None:
    """Compile configurations for architectures, and write down their registers and bytes of stack."""
    from ssm_core.opkit import triton_aot

    limits: dict[str, dict[str, list[int]]] = {}
    for variant, capability in pairs:
        about = triton_aot.compile(variant, capability)
        limits.setdefault(variant.name, {})[str(capability)] = [about.registers, about.stack]
    lines = [f"{json.dumps(name)}: {json.dumps(limits[name])}" for name in sorted(limits)]
    LIMITS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def predicted(variant: Variant, about: Figures) -> tuple[float, str]:
    """(least seconds for an element, or a pass if it has no known number of them, on an H200; what takes them)."""
    counts, elements = about.work, variant.elements or 1
    numbers = {
        "MUFU": counts.special,
        "fp32": counts.arithmetic,
        "fp64": counts.arithmetic_64,
        "issue": counts.total,
    }
    threads = 32 * variant.num_warps
    clocks = {kind: n * threads / LANES[kind] for kind, n in numbers.items()}
    clocks["tensor"] = sum(n * variant.num_warps / PRODUCTS[kind] for kind, n in counts.products.items())
    times = {kind: n / (elements * MULTIPROCESSORS * CLOCK) for kind, n in clocks.items()}
    if variant.elements:
        times["bytes"] = (variant.traffic or counts.bytes * threads / elements) / BANDWIDTH
    kind = max(times, key=lambda kind: times[kind])
    return times[kind], kind


def check(name: str, about: Figures) -> None:
    """Refuse counts that cannot be of a kernel's work.

    Raises:
        ValueError: They are not.
    """
    work, wrong = about.work, []
    if work.total < FEWEST:
        wrong.append(f"has {work.total} instructions, fewer than {FEWEST}")
    if not work.loads + work.stores:
        wrong.append("neither loads nor stores")
    if about.whole.computes and not work.computes:
        wrong.append("computes nothing in floating point, while the kernel does")
    if wrong:
        raise ValueError(
            f"{name}: what was taken for its work {' and '.join(wrong)}; see ssm_core.opkit.machine_code.read_sass"
        )


def page(names: Iterable[str], capabilities: Iterable[int]) -> str:
    """The page on these modules for these architectures."""
    import triton

    parts = [INTRODUCTION.format(version=triton.__version__, fewest=FEWEST)]
    for name in names:
        op, every = name.split(".")[-2], variants(name)
        if every:
            parts.append(f"\n## {op}\n\n{len(every)} configurations.\n{HEADER}")
            parts += [f"{row}\n" for row in _rows(op, every, capabilities)]
    return "".join(parts)


def shown(every: list[Variant], capabilities: Iterable[int]) -> Iterator[tuple[Variant, int]]:
    """What the page has of an operation."""
    wanted, stride = list(capabilities), max(1, -(-len(every) // MOST))
    for place, variant in enumerate(every):
        # Of each `stride` configurations another one, lest all that are shown be of one kind.
        everywhere = place % stride == place // stride % stride
        yield from ((variant, capability) for capability in wanted if everywhere or capability == SHOWN)


def _rows(op: str, every: list[Variant], capabilities: Iterable[int]) -> Iterator[str]:
    from ssm_core.opkit import triton_aot

    for variant, capability in shown(every, capabilities):
        yield _row(op, variant, capability, triton_aot.compile(variant, capability))


def _row(op: str, variant: Variant, capability: int, about: Figures) -> str:
    check(f"{variant.name} for sm_{capability}", about)
    counts, time, kind = about.work, "", ""
    if capability == SHOWN:
        seconds, kind = predicted(variant, about)
        time = f"{seconds * 1e12:.2f}" if variant.elements else f"{seconds * 1e12:.0f} a pass"
        time += f" per {variant.unit}" if variant.elements and variant.unit else ""
    double = f" + {counts.arithmetic_64}" if counts.arithmetic_64 else ""
    cells = (
        variant.name.removeprefix(op).strip(" _:"),
        f"sm_{capability}",
        about.registers,
        about.stack,
        f"{occupancy(about.registers, about.shared, variant.num_warps, capability)}/64",
        f"{counts.loads}, {counts.wide_loads}",
        counts.special,
        f"{counts.arithmetic}{double}",
        counts.tensor,
        counts.total,
        time,
        kind,
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(modules(), CAPABILITIES), encoding="utf-8")
    print(PAGE)
    if "--limits" in sys.argv[1:]:
        listed = {name: variants(name) for name in modules()}
        if "--all" in sys.argv[1:]:
            write_limits(
                (one, capability) for every in listed.values() for one in every for capability in CAPABILITIES
            )
        else:
            write_limits(pair for every in listed.values() for pair in shown(every, CAPABILITIES))
        print(LIMITS)
