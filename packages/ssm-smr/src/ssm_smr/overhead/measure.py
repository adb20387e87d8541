"""Times training steps with the gate and without, in turns, after checking the gate inside the model."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from ssm_core.bench.harness import take_turns
from ssm_core.protocols import Chart, Curve, Result
from ssm_smr.overhead.contenders import gate_alone, gate_error, models, training_step
from ssm_smr.overhead.spec import OverheadConfig

TOLERANCE = 1e-5
"""Largest error of the gate inside the model, relative to the largest value in float64, at which times count."""

PLAIN = "without"


def measure(config: OverheadConfig) -> Result:
    """Time every backbone at every length without SMR and with it, and the gate by itself.

    Raises:
        AssertionError: If a model's gate is not what the definition computes in float64.
        ConfigError: If a backbone is unknown or cannot be built at this size.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    rows = [
        row
        for length, batch in config.sizes
        for name in config.split("backbones")
        for row in _compare(config, name, length, batch)
    ]
    return Result(
        text=(
            f"{config.layers} layers of width {config.width}, tau {config.tau}, forward, backward and AdamW, float32, "
            f"{config.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
            f"overhead: median of the ratios with / without of {config.repeats} rounds, low and high their quartiles; "
            "gate: its own forward and backward, one layer"
        ),
        figures=_figures(config, rows),
        rows=rows,
        charts=[_chart(config, rows)],
    )


def _compare(config: OverheadConfig, name: str, length: int, batch: int) -> list[dict[str, Any]]:
    """One row a mode; all contenders are built anew, so that no length profits from the one before."""
    x = torch.randn(batch, length, config.width, generator=torch.Generator().manual_seed(0)).to(config.device)
    built = models(config, name, length)
    bare, modes = built.pop(PLAIN), config.split("modes")
    errors = {mode: gate_error(built[mode], x[:, :128]) for mode in modes}
    for mode, error in errors.items():
        assert error <= TOLERANCE, f"the {mode} gate in {name} is off its definition by {error:.2g}"
    runs = {PLAIN: training_step(bare, x)}
    for mode in modes:
        runs[mode] = training_step(built[mode], x)
        runs[f"gate {mode}"] = gate_alone(built[mode], batch, length)
    times = take_turns(runs, config.repeats, torch.device(config.device))
    return [_row(config, name, mode, built[mode], times, errors[mode], (batch, length)) for mode in modes]


def _row(
    config: OverheadConfig,
    name: str,
    mode: str,
    model: torch.nn.Module,
    times: dict[str, list[float]],
    error: float,
    size: tuple[int, int],
) -> dict[str, Any]:
    over = [100 * (with_it / without - 1) for with_it, without in zip(times[mode], times[PLAIN], strict=True)]
    low, _, high = statistics.quantiles(over, n=4, method="inclusive") if len(over) > 1 else over * 3
    alone = statistics.median(times[f"gate {mode}"])
    return {
        "backbone": name,
        "mode": mode,
        "L": size[1],
        "B": size[0],
        "without_ms": round(1e3 * statistics.median(times[PLAIN]), 2),
        "with_ms": round(1e3 * statistics.median(times[mode]), 2),
        "overhead_percent": round(statistics.median(over), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "gate_ns_per_element": round(1e9 * alone / (size[0] * size[1]), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "error": float(f"{error:.1e}"),
    }


def _figures(config: OverheadConfig, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The overhead of each row, the worst of each mode, and how the gate's own time grows with the length."""
    lengths = [length for length, _ in config.sizes]
    figures: dict[str, float] = {
        f"{row['backbone']}, {row['mode']}, L {row['L']}: overhead, %": row["overhead_percent"]
        for row in rows
    }
    for mode in config.split("modes"):
        of_mode = [row for row in rows if row["mode"] == mode]
        figures[f"largest overhead, {mode}, %"] = max(row["overhead_percent"] for row in of_mode)
        for name in config.split("backbones"):
            per_element = {row["L"]: row["gate_ns_per_element"] for row in of_mode if row["backbone"] == name}
            growth = per_element[lengths[-1]] / per_element[lengths[0]]
            figures[f"gate in {name}, {mode}: time per element, L {lengths[-1]} / L {lengths[0]}"] = round(
                growth, 2
            )
    return figures


def _chart(config: OverheadConfig, rows: list[dict[str, Any]]) -> Chart:
    curves = []
    for name in config.split("backbones"):
        for mode in config.split("modes"):
            of_line = [row for row in rows if (row["backbone"], row["mode"]) == (name, mode)]
            values = {k: [row[k] for row in of_line] for k in ("L", "overhead_percent", "low", "high")}
            curves.append(
                Curve(
                    label=f"{name}, {mode}",
                    x=values["L"],
                    y=values["overhead_percent"],
                    style="line and points",
                    low=values["low"],
                    high=values["high"],
                )
            )
    return Chart(
        title="What SMR adds to a training step",
        curves=curves,
        x_label="length L",
        y_label="overhead, %",
        log_x=True,
    )
