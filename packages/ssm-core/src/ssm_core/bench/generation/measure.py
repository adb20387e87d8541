"""Times steps of one block of every backbone near the start of a sequence and far from it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.bench.clock import stopwatch, wait
from ssm_core.bench.generation.operations import ALONE
from ssm_core.bench.generation.replay import captured
from ssm_core.bench.generation.spec import GenerationConfig
from ssm_core.bench.layers.measure import default_blocks
from ssm_core.protocols import Block, Result, State


def measure(config: GenerationConfig) -> Result:
    """Time steps near both positions and count the bytes of the state that they carry."""
    if config.threads:
        torch.set_num_threads(config.threads)
    blocks = default_blocks(
        config.only,
        config.d_model,
        config.late + config.steps,
        {"window": config.window, "chunk_size": config.window},
    )
    steps: dict[str, Any] = {name: block for name, block in blocks.items() if block.streaming}
    if config.operations:
        steps |= {f"{name}, alone": make(config.d_model) for name, make in ALONE.items()}
    rows = [{"block": name, **_block(step.to(config.device).eval(), config)} for name, step in steps.items()]
    return Result(
        text=(
            f"one block, H {config.d_model}, B {config.batch}, float32, {config.device}, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {config.steps} steps "
            f"from position {config.early} on, and from {config.late}{_HOW[config.graph]}"
        ),
        rows=rows,
    )


_HOW = {
    False: "",
    True: "; each step one replay of a CUDA graph, by the device's clock; nothing where the state grows "
    "or the step waits for the device",
}


@torch.no_grad()
def _block(block: Block, config: GenerationConfig) -> dict[str, Any]:
    x = torch.randn(config.batch, config.late, config.d_model, device=config.device)
    states = [block(x[:, :position])[1] for position in (config.early, config.late)]
    size = [_bytes(state) for state in states]
    device = torch.device(config.device)
    if config.graph:
        runs = [_replayed(block, x[:, 0], state) for state in states]
        times = [[stopwatch(run, device) for _ in range(config.steps)] if run else None for run in runs]
        return _row(times, size)
    seconds: list[list[float]] = [[], []]
    for turn in range(config.steps + 3):
        for which in range(2):
            began = time.perf_counter()
            _, states[which] = block.step(x[:, turn % config.late], state=states[which])
            wait(device)  # by the host's clock: a loop over steps waits for launches too
            if turn >= 3:  # the first ones warm up
                seconds[which].append(time.perf_counter() - began)
    return _row(seconds, size)


def _replayed(block: Block, x_bd: Tensor, state: State) -> Callable[[], None] | None:
    try:
        return captured(block, x_bd, state)
    except RuntimeError:  # a step that waits for the device cannot be captured
        return None


def _row(seconds: Sequence[list[float] | None], size: list[int]) -> dict[str, Any]:
    early, late = (statistics.median(values) if values else None for values in seconds)
    return {
        "early_us": round(1e6 * early, 1) if early else None,
        "late_us": round(1e6 * late, 1) if late else None,
        "late_to_early": round(late / early, 2) if early and late else None,
        "early_bytes": size[0],
        "late_bytes": size[1],
    }


def _bytes(state: State) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(_bytes(part) for part in (state.values() if isinstance(state, dict) else state))
