"""Times steps of one block of every backbone near the start of a sequence and far from it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from ssm_core.bench.generation.spec import GenerationConfig
from ssm_core.bench.harness import wait
from ssm_core.bench.layers.measure import default_blocks
from ssm_core.protocols import Block, Result, State


def measure(config: GenerationConfig) -> Result:
    """Time steps near both positions and count the bytes of the state that they carry."""
    if config.threads:
        torch.set_num_threads(config.threads)
    blocks = default_blocks(config.only, config.d_model, config.late + config.steps)
    rows = [
        {"block": name, **_block(block.to(config.device).eval(), config)}
        for name, block in blocks.items()
        if block.streaming
    ]
    return Result(
        text=(
            f"one block, H {config.d_model}, B {config.batch}, float32, {config.device}, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {config.steps} steps "
            f"from position {config.early} on, and from {config.late}"
        ),
        rows=rows,
    )


@torch.no_grad()
def _block(block: Block, config: GenerationConfig) -> dict[str, Any]:
    x = torch.randn(config.batch, config.late, config.d_model, device=config.device)
    states = [block(x[:, :position])[1] for position in (config.early, config.late)]
    size = [_bytes(state) for state in states]
    seconds: list[list[float]] = [[], []]
    for turn in range(config.steps + 3):
        for which in range(2):
            began = time.perf_counter()
            _, states[which] = block.step(x[:, turn % config.late], state=states[which])
            wait(torch.device(config.device))
            if turn >= 3:  # the first ones warm up
                seconds[which].append(time.perf_counter() - began)
    early, late = (statistics.median(values) for values in seconds)
    return {
        "early_us": round(1e6 * early, 1),
        "late_us": round(1e6 * late, 1),
        "late_to_early": round(late / early, 2),
        "early_bytes": size[0],
        "late_bytes": size[1],
    }


def _bytes(state: State) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(_bytes(part) for part in (state.values() if isinstance(state, dict) else state))
