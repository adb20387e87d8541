"""Timing contenders side by side: checked first, then taking turns, beside the machine's own limit in the same run.

Every time comes from `ssm_core.bench.clock`: the host's clock on a CPU, the device's own on a GPU.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssm_core.bench.clock import milliseconds, stopwatch

log = logging.getLogger(__name__)
"""Says what has been timed, at level INFO, while a bench runs; `ssm bench` shows it."""

Function = Callable[..., Tensor | tuple[Tensor, ...]]

TOLERANCE = {"ours": 1e-4}
"""Largest error of our output or gradients, relative to the largest value in float64, at which a time counts."""

PEER_TOLERANCE = 1e-3
"""The same of others, who may compute with less care but have to compute the same."""

HALF_TOLERANCE = {"ours": 2e-2}
"""As `TOLERANCE` in bfloat16, whose numbers lie 1/128 apart; operands are rounded before float64 sees them."""

HALF_PEER_TOLERANCE = 5e-2
"""The same of others, some of whom round between one operation and the next."""


@dataclass(frozen=True)
class Case:
    """One operation at one size, and who computes it.

    Attributes:
        name: What is timed.
        shape: The sizes, as text.
        make: dtype, length -> operands, leaves of the gradient, on the CPU.
        length: Steps in the timed size (rows, for a kernel without time); the check takes fewer.
        ours: Function of the operands.
        oracle: The definition, to be run in float64 on a short length.
        peers: Other people's functions of the same operands, by name.
        floor: Bytes that forward and backward have to move at least, in float32.
        slow: Peers that loop over time, timed three times only.
        forward_floor: Bytes that forward alone has to move at least, in float32; 0 if nobody counted them.
        native: Of peers that want operands laid out otherwise: the function of such operands, which is timed in place
            of the one in `peers`, which is checked; and what makes them of ours, outside the time.
        real: No operand is complex, so that all but decay rates may be in bfloat16.
    """

    name: str
    shape: str
    make: Callable[[torch.dtype, int], list[Tensor]]
    length: int
    ours: Function
    oracle: Function
    floor: float
    peers: Mapping[str, Function] = field(default_factory=dict)
    slow: Sequence[str] = ()
    forward_floor: float = 0
    real: bool = False
    native: Mapping[str, tuple[Function, Callable[[Sequence[Tensor]], list[Tensor]]]] = field(
        default_factory=dict
    )


def compare(
    case: Case, repeats: int, bandwidth: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[dict[str, object]]:
    """Return one row a contender: times, error, ratio to ours, and how far ours is from the floor.

    A contender that computes something else gets its error and no time.
    """
    errors = errors_of(case, device, dtype)
    operands = [x.to(device) for x in case.make(dtype, case.length)]
    times: dict[str, tuple[list[float], list[float]]] = {
        n: ([], []) for n, e in errors.items() if isinstance(e, float) and e <= tolerance(n, dtype)
    }
    work = {name: _timed(case, name, operands) for name in times}
    for turn in range(repeats + 1):
        for name in [name for name in times if turn <= min(repeats, 3) or name not in case.slow]:
            try:
                seconds = _once(*work[name], device)
            except Exception as error:  # noqa: BLE001 -- of others, whose memory may end at the full size
                errors[name] = _told(case, name, error)
                del times[name]
                continue
            if turn:  # the first warms up
                for kept, value in zip(times[name], seconds, strict=True):
                    kept.append(value)
    ours = statistics.median(times["ours"][1]) if "ours" in times else None
    log.info("%s, %s: %s", case.name, case.shape, f"{milliseconds(ours)} ms" if ours else "no time")
    speed = bandwidth * 4 / dtype.itemsize  # floors are counted in float32
    return [_row(case, name, errors[name], times.get(name), ours, speed) for name in errors]


def errors_of(
    case: Case, device: torch.device, dtype: torch.dtype = torch.float32, length: int = 96
) -> dict[str, float | str]:
    """Return the largest relative error of each contender's output and gradients against the definition.

    Contenders compute where and in what they are timed; the definition in float64 on the CPU, of the same operands. Of
    a peer that fails it is said how.
    """
    operands = case.make(dtype, min(length, case.length))
    wide = [x.to(torch.complex128 if x.is_complex() else torch.float64) for x in operands]
    exact = _values(case.oracle, wide)
    errors: dict[str, float | str] = {}
    for name, function in _contenders(case).items():
        try:
            found = _values(function, [x.to(device) for x in operands])
        except Exception as error:  # noqa: BLE001 -- of others, who may fail in any way
            errors[name] = _told(case, name, error)
        else:
            errors[name] = max(_distance(x.to(e), e) for x, e in zip(found, exact, strict=True))
    return errors


def _told(case: Case, name: str, error: Exception) -> str:
    """Return how a peer failed; our own failures are raised again."""
    if name not in case.peers:
        raise error
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _timed(case: Case, name: str, operands: Sequence[Tensor]) -> tuple[Function, Sequence[Tensor]]:
    """Return the function that is timed and its operands."""
    if name in case.native:
        function, turn = case.native[name]
        return function, turn(operands)
    return _contenders(case)[name], operands


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def tolerance(name: str, dtype: torch.dtype) -> float:
    """Return the largest error at which a contender's time counts."""
    if dtype == torch.float32:
        return TOLERANCE.get(name, PEER_TOLERANCE)
    return HALF_TOLERANCE.get(name, HALF_PEER_TOLERANCE)


def take_turns(
    runs: Mapping[str, Callable[[], None]], repeats: int, device: torch.device, slow: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return the seconds of each run, once a round after one round to warm up: a noisy moment hits all alike.

    Args:
        runs: What to time, by name.
        repeats: Rounds.
        device: Where they run.
        slow: Names of runs that take part in three rounds only.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            if name in slow and turn > min(repeats, 3):
                continue
            seconds = stopwatch(run, device)
            if turn:
                times[name].append(seconds)
    log.info(
        ", ".join(f"{name} {milliseconds(statistics.median(seconds))} ms" for name, seconds in times.items())
    )
    return times


def _contenders(case: Case) -> dict[str, Function]:
    return {"ours": case.ours, **case.peers}


_FIGURES = (
    "forward_ms",
    "both_ms",
    "min_ms",
    "p20_ms",
    "p80_ms",
    "times_ours",
    "forward_times_floor",
    "times_floor",
)


def _row(
    case: Case,
    name: str,
    wrong: float | str,
    times: tuple[list[float], list[float]] | None,
    ours: float | None,
    bandwidth: float,
) -> dict[str, object]:
    row: dict[str, object] = {"op": case.name, "shape": case.shape, "who": name, "error": wrong}
    row |= dict.fromkeys(_FIGURES)
    if times is None:
        return row
    forward, both = (statistics.median(seconds) for seconds in times)
    low, high = (sorted(times[1])[round(share * (len(times[1]) - 1))] for share in (0.2, 0.8))
    row |= {
        "forward_ms": milliseconds(forward),
        "both_ms": milliseconds(both),
        "min_ms": milliseconds(min(times[1])),
        "p20_ms": milliseconds(low),
        "p80_ms": milliseconds(high),
        "times_ours": round(both / ours, 2) if ours else None,
        "times_floor": round(both * bandwidth / case.floor, 2),
    }
    if case.forward_floor:
        row["forward_times_floor"] = round(forward * bandwidth / case.forward_floor, 2)
    return row


def _outputs(function: Function, operands: Sequence[Tensor]) -> list[Tensor]:
    found = function(*operands)
    return [found] if isinstance(found, Tensor) else list(found)


def _values(function: Function, operands: Sequence[Tensor]) -> list[Tensor]:
    """Return the first output and the gradients of a fixed sum of it."""
    leaves = [x.detach().requires_grad_() for x in operands]
    out = _outputs(function, leaves)[0]
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
    total = (out * weights.to(out.device, out.dtype)).sum()
    loss = total.real if out.is_complex() else total
    return [out.detach(), *torch.autograd.grad(loss, leaves)]


def _once(function: Function, operands: Sequence[Tensor], device: torch.device) -> tuple[float, float]:
    """Return the seconds of forward, and of forward and backward."""
    leaves = [x.detach().requires_grad_() for x in operands]

    def both() -> None:
        out = _outputs(function, leaves)[0]
        out.backward(torch.ones_like(out))

    with torch.no_grad():
        forward = stopwatch(lambda: function(*leaves), device)
    return forward, stopwatch(both, device)
