"""Times the gate, forward and backward, after checking each contender against the definition in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.bench.clock import copy_bandwidth, machine
from ssm_core.bench.harness import Case, compare
from ssm_core.protocols import Result
from ssm_smr.bench.spec import GateBenchConfig
from ssm_smr.ops import smr_gate


def measure(config: GateBenchConfig) -> Result:
    """Time the depthwise and the dense gate; a contender that computes something else gets its error and no time."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    bandwidth, dtype = copy_bandwidth(device), getattr(torch, config.dtype)
    rows = [
        row
        for dense in (False, True)
        for row in compare(_case(config, dense=dense), config.repeats, bandwidth, device, dtype)
    ]
    figures: dict[str, Any] = {
        f"{row['op']} beside {row['who']}": row["times_ours"] for row in rows if row["who"] != "ours"
    }
    return Result(
        text=(
            f"{config.dtype}, {machine(device)}; medians of {config.repeats}; 'both' is forward and backward, and the "
            "ratios are of it"
        ),
        figures=figures | {"copy bandwidth, GB/s": round(bandwidth / 1e9, 1)},
        rows=rows,
    )


def _case(config: GateBenchConfig, *, dense: bool) -> Case:
    width, tau = config.width, config.tau
    shape = (width, width, tau) if dense else (width, tau)

    def make(dtype: torch.dtype, steps: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(config.batch, steps, width, generator=generator)
        weight = torch.randn(shape, generator=generator) / (tau * (width if dense else 1)) ** 0.5
        return [u.to(dtype), weight.to(dtype)]

    def plain(u: Tensor, weight: Tensor) -> Tensor:
        kernel, groups = (weight, 1) if dense else (weight[:, None], width)
        return u * torch.sigmoid(F.conv1d(F.pad(u.mT, (tau - 1, 0)), kernel, groups=groups).mT)

    elements = config.batch * config.length * width
    return Case(
        "smr_gate, dense" if dense else "smr_gate, depthwise",
        f"B {config.batch}, L {config.length}, H {width}, tau {tau}",
        make,
        config.length,
        lambda u, weight: smr_gate(u, weight)[0],
        lambda u, weight: smr_gate(u, weight, backend="reference")[0],
        4 * 5 * elements,
        {"torch conv1d, sigmoid, product": plain},
        forward_floor=4 * 2 * elements,
        real=True,
    )
