"""Machine code of a kernel as cuobjdump prints it: which loop does the work, and how often an instruction stands there.

Needs neither Triton nor a GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]*)\s*([^;]*);")
_LOADS = ("LDG", "LDGSTS", "UBLKCP", "UTMALDG")
_STORES = ("STG", "UTMASTG")
_FP32 = ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2")
_FP64 = ("DFMA", "DMUL", "DADD")
_TENSOR = re.compile(r"(HMMA|BMMA|IMMA|QMMA|OMMA|DMMA|[HQI]GMMA|UTC[A-Z]*MMA)$")
_SIZES = re.compile(r"(\d+)x(\d+)x(\d+)|(16|8)(8)(4|8|16|32|64)")


@dataclass(frozen=True)
class Counts:
    """Instructions of a thread in a stretch of machine code."""

    by_name: Mapping[str, int]
    """Full name, such as ``LDG.E.128``, -> how often it stands there."""

    def of(self, *roots: str) -> int:
        """Instructions whose name up to the first dot is one of these."""
        return sum(n for name, n in self.by_name.items() if _is(name, roots))

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self.by_name.values())

    @property
    def loads(self) -> int:
        """Loads from global memory."""
        return self.of(*_LOADS)

    @property
    def stores(self) -> int:
        """Stores to global memory."""
        return self.of(*_STORES)

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
    def tensor(self) -> int:
        """Instructions of the tensor cores, of a warp."""
        return sum(self._tensor.values())

    @property
    def products(self) -> dict[str, int]:
        """Multiply-adds of a warp in its tensor instructions, by what is multiplied: fp64, tf32, half or byte.

        Raises:
            ValueError: An instruction keeps its sizes elsewhere than in its name, as those of Blackwell's do.
        """
        found: dict[str, int] = {}
        for name, n in self._tensor.items():
            kind = _kind(name)
            found[kind] = found.get(kind, 0) + n * _products(name)
        return found

    @property
    def local(self) -> int:
        """Loads and stores of local memory: spilled registers."""
        return self.of("LDL", "STL")

    @property
    def computes(self) -> bool:
        """Whether anything is computed in floating point, the reciprocal of a division of integers aside."""
        special = self.special - self.by_name.get("MUFU.RCP", 0)
        return special + self.arithmetic + self.arithmetic_64 + self.tensor > 0

    @cached_property
    def _tensor(self) -> dict[str, int]:
        return {name: n for name, n in self.by_name.items() if _TENSOR.match(name.partition(".")[0])}


class Instruction(NamedTuple):
    """One line of machine code."""

    at: int
    predicate: str
    name: str
    rest: str

    @property
    def target(self) -> int:
        """Where a branch goes, or a call, which may be a branch; its own address if no number says where."""
        goes = self.name.startswith(("BRA", "CALL"))
        numbers = re.findall(r"0x([0-9a-f]+)", self.rest) if goes else []
        return int(numbers[-1], 16) if numbers else self.at

    @property
    def ends(self) -> bool:
        """Whether what follows is never reached from here."""
        always = not self.predicate and (self.name.startswith(("EXIT", "RET")) or self.rest.startswith("0x"))
        return always and self.name.startswith(("EXIT", "RET", "BRA"))


Stretch = frozenset[int]
"""Addresses."""


def read_sass(code: str) -> tuple[Counts, Counts]:
    """Counts of all instructions of a kernel and of the stretch that does its work.

    A loop is what lies on the way from an address to a branch back to it that cannot be reached otherwise. One in which
    nothing is computed in floating point and nothing is stored does no work of a kernel that computes so elsewhere: it
    waits for a copy or a lock, or it is the slow way of a sine or cosine, which reads the digits of 2/pi and which
    arguments below 105,615 jump over. Of the other loops, those that hold no other such loop are the innermost ones;
    the one with most instructions does the work. A kernel without one does it from end to end. What is jumped over
    together with an idle loop that loads is left out of that.
    """
    found = [Instruction(int(at, 16), *rest) for at, *rest in _INSTRUCTION.findall(code)]
    while found and found[-1].name == "NOP":
        found.pop()
    everything = frozenset(line.at for line in found)
    whole = _count(found, everything)
    loops = _loops(found)
    # What works within a loop makes that work too, so an idle loop holds none.
    working = [loop for loop in loops if _works(_count(found, loop), whole)]
    innermost = [loop for loop in working if not any(other < loop for other in working)]
    idle = [loop for loop in loops if loop not in working and _count(found, loop).loads]
    skipped = [_detour(found, loop) for loop in idle]
    counts = (
        _count(found, loop.difference(*(detour for detour in skipped if detour < loop)))
        for loop in innermost or [everything]
    )
    return whole, max(counts, key=lambda each: each.total)


def _count(found: list[Instruction], stretch: Stretch) -> Counts:
    return Counts(Counter(line.name for line in found if line.at in stretch))


def _works(loop: Counts, whole: Counts) -> bool:
    return loop.stores > 0 or (loop.computes if whole.computes else loop.loads > 0)


def _loops(found: list[Instruction]) -> list[Stretch]:
    """Bodies of the loops; those of several branches back to one address are one."""
    after: dict[int, set[int]] = {line.at: {line.target} - {line.at} for line in found}
    for line, following in pairwise(found):
        if not line.ends:
            after[line.at].add(following.at)
    before: dict[int, set[int]] = {at: set() for at in after}
    for at, targets in after.items():
        for target in targets & before.keys():
            before[target].add(at)
    bodies: dict[int, Stretch] = {}
    for line in found:
        head = line.target
        if head < line.at and line.at not in _reached(after, found[0].at, head):
            body = _reached(before, line.at, head) | {head}
            bodies[head] = bodies.get(head, frozenset()) | body
    return list(bodies.values())


def _reached(ways: Mapping[int, set[int]], start: int, closed: int) -> Stretch:
    """Addresses that can be reached from one without passing another."""
    seen, left = set[int](), [start]
    while left:
        at = left.pop()
        if at != closed and at not in seen:
            seen.add(at)
            left += ways.get(at, ())
    return frozenset(seen)


def _detour(found: list[Instruction], loop: Stretch) -> Stretch:
    """What the nearest branch over a loop skips; the loop itself if there is none."""
    over = [line for line in found if line.at < min(loop) and line.target > max(loop)]
    if not over:
        return loop
    end = min(line.target for line in over)
    begin = max(line.at for line in over if line.target == end)
    return frozenset(line.at for line in found if begin < line.at < end)


def _is(name: str, roots: tuple[str, ...]) -> bool:
    return name.partition(".")[0] in roots


def _bits(name: str) -> int:
    """Width of an access of memory, from its name: 32 where it names none."""
    widths = [int(part.lstrip("SU")) for part in name.split(".") if part.lstrip("SU").isdigit()]
    return max((width for width in widths if width >= 8), default=32)


def _kind(name: str) -> str:
    root = name.partition(".")[0]
    if root.startswith("D"):
        return "fp64"
    if "TF32" in name:
        return "tf32"
    return "half" if root.startswith("H") else "byte"


def _products(name: str) -> int:
    """Multiply-adds that a warp does: rows times columns times depth; a warp group of four shares a GMMA's rows."""
    sizes = next((match for part in name.split(".") if (match := _SIZES.fullmatch(part))), None)
    if sizes is None:
        raise ValueError(f"{name} does not say in its name how large its matrices are")
    m, n, k = (int(number) for number in sizes.groups() if number)
    return m * n * k // (4 if "GMMA" in name else 1)
