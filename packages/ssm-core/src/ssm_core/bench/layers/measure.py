"""Times training steps of one block of every backbone, at several lengths, contenders taking turns."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.bench.harness import take_turns
from ssm_core.bench.layers.peers import Peer, peers
from ssm_core.bench.layers.spec import LayersConfig
from ssm_core.compose import Slots
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.plugin.spec import BackboneSpec
from ssm_core.protocols import LayerInfo, Result

LOOP_LENGTH = 1024
"""Longest sequence that implementations with a loop over time are given."""


def measure(config: LayersConfig) -> Result:
    """Time every backbone at every length, and the peers of those that have some.

    Raises:
        AssertionError: If a peer's block, given our weights, computes something else.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    rows: list[dict[str, Any]] = []
    for length in (int(part) for part in config.lengths.split(",")):
        rows += _at_length(config, length)
    figures = {
        f"{row['peer_of']} beside {row['block']}, L {row['L']}": row["times_ours"]
        for row in rows
        if row["peer_of"]
    }
    return Result(
        text=(
            f"one block, H {config.d_model}, forward, backward and AdamW, float32, {config.device}, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {config.repeats}"
        ),
        figures=figures,
        rows=rows,
    )


def _at_length(config: LayersConfig, length: int) -> list[dict[str, Any]]:
    batch = max(1, config.tokens // length)
    x = torch.randn(batch, length, config.d_model, device=config.device)
    blocks: dict[str, nn.Module] = {}
    others: dict[str, Peer] = {}
    chosen = {"state_size": config.state_size}
    for name, block in default_blocks(config.only, config.d_model, length, chosen).items():
        blocks[name] = block
        for peer in peers(name, block):
            if not peer.slow or length <= LOOP_LENGTH:
                others[peer.name] = peer
    # Not before: peers are compared with ours on the CPU.
    runs = {name: training_step(block.to(config.device), x) for name, block in blocks.items()}
    runs |= {name: training_step(peer.block.to(config.device), x) for name, peer in others.items()}
    slow = [name for name, peer in others.items() if peer.slow]
    times = take_turns(runs, config.repeats, torch.device(config.device), slow)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "block": name,
            "L": length,
            "B": batch,
            "ms": round(1e3 * seconds[name], 2),
            "tokens_per_s": round(batch * length / seconds[name]),
            "parameters": sum(p.numel() for p in (blocks.get(name) or others[name].block).parameters()),
            "peer_of": others[name].of if name in others else "",
            "times_ours": round(seconds[name] / seconds[others[name].of], 2) if name in others else None,
        }
        for name in runs
    ]


def default_blocks(only: str, d_model: int, max_length: int, knobs: Mapping[str, int]) -> dict[str, Any]:
    """Build one block of every backbone whose name holds ``only``, with its default knobs, causal if it can be.

    ``knobs`` are given to those that have them, but for those of 0. A backbone that cannot be loaded or built as it
    comes is left out: nobody asked for it by name.

    Raises:
        ConfigError: If one refuses its knobs.
    """
    blocks = {}
    for entry in registry.found("backbone"):
        if only not in entry.name:
            continue
        chosen: dict[str, int] = {}
        try:
            spec, build = registry.builder("backbone", entry.long_name)
            assert isinstance(spec, BackboneSpec)
            causal = spec.capabilities.causal
            layer = LayerInfo(index=0, n_layers=1, d_model=d_model, causal=causal, max_length=max_length)
            known = {field.name for field in dataclasses.fields(spec.config)}
            chosen = {name: value for name, value in knobs.items() if value and name in known}
            blocks[entry.name] = build(
                registry.configure("backbone", entry.long_name, chosen), layer, Slots([], layer)
            )
        except (UserError, ValueError):
            if chosen:
                raise
    return blocks


def training_step(block: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a step of training on a fixed weighted sum of the outputs."""
    optimiser = torch.optim.AdamW(block.parameters(), lr=1e-4)
    weights = torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)

    def step() -> None:
        optimiser.zero_grad()
        y = block(x)
        y = y[0] if isinstance(y, tuple) else y
        (y * weights).sum().backward()
        optimiser.step()

    return step
