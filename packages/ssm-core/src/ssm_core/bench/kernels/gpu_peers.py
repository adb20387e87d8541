"""Other people's kernels for GPUs, as functions of the operands of ours, if they are installed.

Those that want time last are checked on turned operands, and timed on operands that lie so from the start: no copy of
ours is put down to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ssm_core.bench.harness import Case, Function
from ssm_core.bench.kernels.peers import installed


@dataclass(frozen=True)
class Rival:
    """Somebody's kernel.

    Attributes:
        name: Package, release, and what of it.
        timed: The function of operands as it wants them.
        turn: Puts our operands into that form, contiguous; None if it is ours.
        back: Puts its output into the form of ours.
    """

    name: str
    timed: Function
    turn: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    back: Callable[[Tensor], Tensor] = lambda out: out

    def checked(self, *operands: Tensor) -> Tensor:
        """Compute on our operands."""
        out = self.timed(*(self.turn(operands) if self.turn else operands))
        return self.back(out if isinstance(out, Tensor) else out[0])


def of(case: Case) -> list[Rival]:
    """Return the installed rivals of an operation at a size; the shape says whether it is complex.

    A package that cannot be loaded is one rival, which fails saying why.
    """
    found = []
    for package, made in _MAKERS.get(case.name, {}).items():
        if number := installed(package):
            try:
                found += made(f"{package} {number}", "complex" in case.shape)
            except Exception as error:  # noqa: BLE001 -- compiled code of others may fail in any way
                found.append(Rival(f"{package} {number}", _failing(error)))
    return found


def _failing(error: Exception) -> Function:
    def fail(*_: Tensor) -> Tensor:
        raise error

    return fail


def _last(operands: Sequence[Tensor]) -> list[Tensor]:
    """(B, L, F) to (B, F, L)."""
    return [x.mT.contiguous() for x in operands]


def _turned(out: Tensor) -> Tensor:
    return out.mT


def _mamba_scan(name: str, _: bool) -> list[Rival]:
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    def turn(operands: Sequence[Tensor]) -> list[Tensor]:
        u, dt, A, B, C = operands
        return [*_last([u, dt]), A, *_last([B, C])]

    return [Rival(f"{name}, CUDA", selective_scan_fn, turn, _turned)]


def _accelerated(name: str, is_complex: bool) -> list[Rival]:
    from accelerated_scan import complex, scalar  # pyright: ignore[reportMissingImports]

    return [Rival(f"{name}, Triton", (complex if is_complex else scalar).scan, _last, _turned)]


def _hgrn(name: str, is_complex: bool) -> list[Rival]:
    if is_complex:
        return []
    from fla.ops.hgrn.chunk import chunk_hgrn  # pyright: ignore[reportMissingImports]
    from fla.ops.hgrn.fused_recurrent import fused_recurrent_hgrn  # pyright: ignore[reportMissingImports]

    def turn(operands: Sequence[Tensor]) -> list[Tensor]:
        a, b = operands
        return [b, a.log()]  # its decays are logarithms

    return [
        Rival(f"{name}, hgrn, {kind}", scan, turn)
        for kind, scan in (("chunk", chunk_hgrn), ("recurrent", fused_recurrent_hgrn))
    ]


def _mamba_ssd(name: str, _: bool) -> list[Rival]:
    from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore[reportMissingImports]
        mamba_chunk_scan_combined,
    )

    return [Rival(f"{name}, Triton", lambda *operands: mamba_chunk_scan_combined(*operands, chunk_size=256))]


def _dao_conv(name: str, _: bool) -> list[Rival]:
    from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]

    def turn(operands: Sequence[Tensor]) -> list[Tensor]:
        x, weight = operands
        return [*_last([x]), weight]

    return [
        Rival(f"{name}, time last", causal_conv1d_fn, turn, _turned),
        Rival(f"{name}, channels last", lambda x, weight: causal_conv1d_fn(x.mT, weight).mT),
    ]


def _fla_conv(name: str, _: bool) -> list[Rival]:
    from fla.modules.causal_conv1d.ops import causal_conv1d  # pyright: ignore[reportMissingImports]

    return [Rival(f"{name}, Triton", lambda x, weight: causal_conv1d(x, weight)[0])]


_MAKERS: dict[str, dict[str, Callable[[str, bool], list[Rival]]]] = {
    "selective_scan": {"mamba-ssm": _mamba_scan},
    "linear_scan": {"accelerated-scan": _accelerated, "fla-core": _hgrn},
    "ssd_scan": {"mamba-ssm": _mamba_ssd},
    "causal_conv1d": {"causal-conv1d": _dao_conv, "fla-core": _fla_conv},
}
"""By operation and package: its rivals, given its name and whether operands are complex."""
