"""Timing contenders side by side: checked first, then taking turns, beside the machine's own limit in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]

TOLERANCE = {"ours": 1e-4}
"""Largest error of our output or gradients, relative to the largest value in float64, at which a time counts."""

PEER_TOLERANCE = 1e-3
"""The same of others, who may compute with less care but have to compute the same."""


@dataclass(frozen=True)
class Case:
    """One operation at one size, and who computes it.

    Attributes:
        name: What is timed.
        shape: The sizes, as text.
        make: dtype, length -> operands, leaves of the gradient.
        length: Steps in the timed size (rows, for a kernel without time); the check takes fewer.
        ours: Function of the operands.
        oracle: The definition, to be run in float64 on a short length.
        peers: Other people's functions of the same operands, by name.
        floor: Bytes that forward and backward have to move at least.
        slow: Peers that loop over time, timed three times only.
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


def compare(case: Case, repeats: int, bandwidth: float, device: torch.device) -> list[dict[str, object]]:
    """Return one row a contender: times, error, ratio to ours, and how far ours is from the floor.

    A contender that computes something else gets its error and no time.
    """
    errors = {name: error(case, function) for name, function in _contenders(case).items()}
    operands = [x.to(device) for x in case.make(torch.float32, case.length)]
    times: dict[str, tuple[list[float], list[float]]] = {
        n: ([], []) for n, e in errors.items() if e <= TOLERANCE.get(n, PEER_TOLERANCE)
    }
    for turn in range(repeats + 1):
        for name, (alone, together) in times.items():
            if name in case.slow and turn > min(repeats, 3):
                continue
            forward, both = _once(_contenders(case)[name], operands, device)
            if turn:  # the first warms up
                alone.append(forward)
                together.append(both)
    ours = statistics.median(times["ours"][1]) if "ours" in times else None
    return [_row(case, name, errors[name], times.get(name), ours, bandwidth) for name in errors]


def error(case: Case, function: Function, length: int = 96) -> float:
    """Return the largest relative error of outputs and gradients in float32 against the definition in float64."""
    length = min(length, case.length)
    exact = _values(case.oracle, case.make(torch.float64, length))
    found = _values(function, case.make(torch.float32, length))
    pairs = zip(found, exact, strict=True)
    return max(float((x.to(e.dtype) - e).abs().max() / e.abs().max().clamp(min=1e-30)) for x, e in pairs)


def copy_bandwidth(device: torch.device, size: int = 1 << 28, repeats: int = 5) -> float:
    """Return bytes a second, read and written, of copying a tensor far larger than the caches."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        target.copy_(source)
        wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size / min(seconds)


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
            began = time.perf_counter()
            run()
            wait(device)
            if turn:
                times[name].append(time.perf_counter() - began)
    return times


def _contenders(case: Case) -> dict[str, Function]:
    return {"ours": case.ours, **case.peers}


def _row(
    case: Case,
    name: str,
    wrong: float,
    times: tuple[list[float], list[float]] | None,
    ours: float | None,
    bandwidth: float,
) -> dict[str, object]:
    row: dict[str, object] = {"op": case.name, "shape": case.shape, "who": name, "error": wrong}
    if times is None:
        return row | dict.fromkeys(("forward_ms", "both_ms", "min_ms", "times_ours", "times_floor"), None)
    forward, both = (statistics.median(seconds) for seconds in times)
    return row | {
        "forward_ms": round(1e3 * forward, 2),
        "both_ms": round(1e3 * both, 2),
        "min_ms": round(1e3 * min(times[1]), 2),
        "times_ours": round(both / ours, 2) if ours else None,
        "times_floor": round(both * bandwidth / case.floor, 1),
    }


def _outputs(function: Function, operands: Sequence[Tensor]) -> list[Tensor]:
    found = function(*operands)
    return [found] if isinstance(found, Tensor) else list(found)


def _values(function: Function, operands: Sequence[Tensor]) -> list[Tensor]:
    """Return the first output and the gradients of a fixed sum of it."""
    leaves = [x.detach().requires_grad_() for x in operands]
    out = _outputs(function, leaves)[0]
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
    loss = (
        (out * weights.to(out.dtype)).real.sum() if out.is_complex() else (out * weights.to(out.dtype)).sum()
    )
    return [out.detach(), *torch.autograd.grad(loss, leaves)]


def _once(function: Function, operands: Sequence[Tensor], device: torch.device) -> tuple[float, float]:
    """Return the seconds of forward, and of forward and backward."""
    leaves = [x.detach().requires_grad_() for x in operands]
    with torch.no_grad():
        began = time.perf_counter()
        function(*leaves)
        wait(device)
        forward = time.perf_counter() - began
    began = time.perf_counter()
    out = _outputs(function, leaves)[0]
    out.backward(torch.ones_like(out))
    wait(device)
    return forward, time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
