"""Times resampling, forward and backward, after checking both contenders against each other in float64."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ssm_core.bench.clock import machine, milliseconds
from ssm_core.bench.harness import TOLERANCE, take_turns
from ssm_core.held import held
from ssm_core.protocols import Result
from ssm_serpent.bench.parts import Function, Parts, leaves, parts
from ssm_serpent.bench.spec import SerpentBenchConfig

_CHECKED = 96
"""Steps of the check, or as many as a window holds."""


def measure(config: SerpentBenchConfig) -> Result:
    """Time each stage by both hands, and a long row; what computes something else gets its error and no time."""
    if config.threads:
        torch.set_num_threads(config.threads)
    stages, device = parts(config), torch.device(config.device)
    given = leaves(config, config.batch, config.length, torch.float32)
    rows, both = [], {}
    for stage in stages:
        found = _stage(config, stage, given, device)
        rows += found
        both[stage.name] = found[0]["both_ms"]
    figures: dict[str, Any] = {}
    for ours, direct in zip(rows[::2], rows[1::2], strict=True) if config.direct else ():
        if ours["both_ms"] and direct["both_ms"]:
            forward = round(direct["forward_ms"] / ours["forward_ms"], 2)
            figures[f"{ours['part']}: direct over ours, forward"] = forward
            figures[f"{ours['part']}: direct over ours, both"] = direct["times_ours"]
            figures[f"{ours['part']}: direct over ours, memory"] = round(
                direct["peak_mb"] / ours["peak_mb"], 1
            )
    block = both[stages[-1].name]
    if block and both[stages[0].name]:
        figures["index stage, share of the block"] = round(both[stages[0].name] / block, 4)
    if config.long and block:
        figures |= _long(config, stages[-1], block, device)
    return Result(
        text=(
            f"float32, {machine(device)}; medians of {config.repeats} (direct: 3 at most); 'both' is forward "
            "and backward, and so is what ratios are of"
        ),
        figures=figures,
        rows=rows,
    )


def _stage(
    config: SerpentBenchConfig, stage: Parts, given: list[Tensor], device: torch.device
) -> list[dict[str, Any]]:
    """Return one row a contender."""
    exact = values(stage.direct, leaves(config, 2, _checked(config), torch.float64))
    hands = {"ours": stage.ours} | ({"direct": stage.direct} if config.direct else {})
    errors = {who: _error(config, function, exact) for who, function in hands.items()}
    right = {who: function for who, function in hands.items() if errors[who] <= TOLERANCE["ours"]}
    alone = take_turns({w: _forward(f, given) for w, f in right.items()}, config.repeats, device, ["direct"])
    both = take_turns(
        {w: forward_and_backward(f, given) for w, f in right.items()}, config.repeats, device, ["direct"]
    )
    medians = {who: statistics.median(seconds) for who, seconds in both.items()}
    shape = f"B {config.batch}, L {config.length}, D {config.width}, W {config.window}, G {config.basis}"
    rows = []
    for who, wrong in errors.items():
        row: dict[str, Any] = {"part": stage.name, "shape": shape, "who": who, "error": wrong}
        row |= dict.fromkeys(("forward_ms", "both_ms", "times_ours", "peak_mb"))
        if who in right:
            row["forward_ms"] = milliseconds(statistics.median(alone[who]))
            row["both_ms"] = milliseconds(medians[who])
            row["times_ours"] = round(medians[who] / medians["ours"], 2) if "ours" in medians else None
            row["peak_mb"] = round(peak_bytes(forward_and_backward(right[who], given), device) / 1e6, 2)
        rows.append(row)
    return rows


def _long(config: SerpentBenchConfig, stage: Parts, block_ms: float, device: torch.device) -> dict[str, Any]:
    """Compare the time a token of one long row with that of one short row, and with that of the batch."""
    lengths = config.length, config.long
    runs = {str(n): forward_and_backward(stage.ours, leaves(config, 1, n, torch.float32)) for n in lengths}
    seconds = take_turns(runs, config.repeats, device)
    one, long = (1e6 * statistics.median(seconds[str(n)]) / n for n in lengths)
    batch = 1e3 * block_ms / (config.batch * config.length)
    return {
        f"us a token, B {config.batch}, L {config.length}": round(batch, 3),
        f"us a token, B 1, L {config.length}": round(one, 3),
        f"us a token, B 1, L {config.long}": round(long, 3),
        "long over short, one row": round(long / one, 2),
        "long over the batch": round(long / batch, 2),
    }


def _checked(config: SerpentBenchConfig) -> int:
    return max(min(_CHECKED, config.length), config.window)


def _error(config: SerpentBenchConfig, function: Function, exact: list[Tensor]) -> float:
    """Return the largest error of output and gradients in float32, relative to the largest value in float64."""
    found = values(function, leaves(config, 2, _checked(config), torch.float32))
    if any(x.shape != e.shape for x, e in zip(found, exact, strict=True)):
        return float("1e9")  # another number of points: JSON knows no infinity
    errors = (
        (x.double() - e).abs().max() / e.abs().max().clamp(min=1e-30)
        for x, e in zip(found, exact, strict=True)
    )
    return max(map(float, errors))


def values(function: Function, tensors: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of a fixed sum of it, of what it depends on."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view(out.shape)
    loss = (out * weights.to(out.dtype)).sum()
    return [out.detach(), *torch.autograd.grad(loss, tensors, materialize_grads=True)]


def _forward(function: Function, tensors: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            function(*tensors)

    return run


def forward_and_backward(function: Function, tensors: list[Tensor]) -> Callable[[], None]:
    """Return a run of both passes, after which nothing of them is left."""
    tensors = [x.detach().requires_grad_() for x in tensors]

    def run() -> None:
        # As in a model: what comes after keeps nothing of the output, and nobody else holds the gradient it hands back.
        after = 2 * function(*tensors)
        grad, edge = torch.ones_like(after[:1, :1, :1]).expand_as(after), get_gradient_edge(after)
        del after
        torch.autograd.grad(edge, tensors, grad, allow_unused=True)

    return run


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes of tensors alive at once while a function runs, beside those alive before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    return held(run).peak
