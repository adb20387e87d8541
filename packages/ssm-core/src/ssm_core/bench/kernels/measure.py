"""Times every operation, forward and backward, after checking each contender against the definition in float64."""

from __future__ import annotations

from typing import Any

import torch

from ssm_core.bench.clock import copy_bandwidth, machine
from ssm_core.bench.harness import compare, tolerance
from ssm_core.bench.kernels.cases import cases, long_cases
from ssm_core.bench.kernels.large import large_cases
from ssm_core.bench.kernels.spec import KernelsConfig
from ssm_core.protocols import Result

SHORT, LONG = 4096, 65536
"""Steps between which the time per element of a scan should hardly grow."""


def measure(config: KernelsConfig) -> Result:
    """Time what is asked for; a contender that computes something else gets its error and no time."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    dtype = getattr(torch, config.dtype)
    bandwidth = copy_bandwidth(device)
    offered = cases() if config.sizes == "small" else large_cases(on_gpu=device.type == "cuda")
    wanted = [case for case in offered if config.only in case.name and (dtype == torch.float32 or case.real)]
    rows = [row for case in wanted for row in compare(case, config.repeats, bandwidth, device, dtype)]
    figures: dict[str, Any] = {"copy bandwidth, GB/s": round(bandwidth / 1e9, 1)}
    figures |= {
        f"{row['op']} ({row['shape']}) beside {row['who']}": row["times_ours"]
        for row in rows
        if row["who"] != "ours" and row["times_ours"]
    }
    if config.long:
        figures |= _growth(config, bandwidth, device)
    return Result(
        text=(
            f"{config.dtype}, {machine(device)}; medians of {config.repeats}; 'both' is forward and backward, 'min', "
            "'p20', 'p80', 'times ours' and 'times floor' are of it, a floor being the bytes that have to be moved at "
            "the bandwidth of a copy; no time for an error "
            f"above {tolerance('ours', dtype):g} of ours, {tolerance('', dtype):g} of others"
        ),
        figures=figures,
        rows=rows,
    )


def _growth(config: KernelsConfig, bandwidth: float, device: torch.device) -> dict[str, float]:
    """Return the time per element at the long length as a multiple of that at the short one, of each scan."""
    found = {}
    for short, long in zip(long_cases(SHORT), long_cases(LONG), strict=True):
        if config.only in short.name:
            a, b = (
                compare(case, min(config.repeats, 5), bandwidth, device)[0]["both_ms"]
                for case in (short, long)
            )
            if isinstance(a, float) and isinstance(b, float):
                kind = short.shape.rpartition(", ")[2]
                found[f"{short.name} ({kind}): time per element at {LONG}, times that at {SHORT}"] = round(
                    b / a * SHORT / LONG, 2
                )
    return found
