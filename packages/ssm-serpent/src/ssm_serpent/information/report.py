"""The table, the pictures and the words for what was found in a trained model."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Chart, Curve, Result
from ssm_serpent.information.statistics import median, pearson, slope, spearman
from ssm_serpent.information.trained import Sample

Described: TypeAlias = tuple[Sample, dict[str, Any]]
"""A sample and its row of the table."""

SHOWN = 6
"""Parts of the model with panels of their own."""


def report(samples: list[Sample], silent: list[tuple[int, str]], sequences: int) -> Result:
    """Describe samples, and the blocks that had nothing to say.

    Raises:
        UserError: If there are no samples.
    """
    if not samples:
        raise UserError(
            f"nothing was measured: none of the {sequences} sequences has an element that a layer could be asked about",
            "give the probe a split with sequences in it, of one valid element or more",
        )
    rows = [_row(one) for one in samples]
    rows += [
        {**dict.fromkeys(rows[0]), "layer": index, "mixer": f"{what}: no intervals"} for index, what in silent
    ]
    return Result(
        text=_words(rows, sequences),
        figures={
            "sequences": sequences,
            "elements left out, of each mixer": max((row["elements"] or 0 for row in rows), default=0),
        },
        rows=rows,
        charts=_charts(list(zip(samples, rows, strict=False))),
    )


def _name(one: Sample) -> str:
    kind = type(one.part.module).__name__
    return " ".join(filter(None, (kind, f"({one.part.name})", one.branch)))


def _row(one: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": one.part.layer,
        "mixer": _name(one),
        "left out": one.definition,
        "elements": len(one.interval),
        "mean interval": float(_tensor(one.interval).mean()),
        "above rounding": int(_tensor(one.state).isfinite().sum()),
        "slope, data fixed": median(_tensor(one.fixed)),
        "share of the bound": max(one.used, default=math.nan),
    }
    for what in ("state", "output"):
        x, y = _measured(one.interval, getattr(one, what))
        row |= {
            f"slope, {what}": slope(x, y),
            f"Spearman, {what}": spearman(x, y),
            f"Pearson, {what}": pearson(x, y),
        }
    row["Spearman, state, in a channel"] = _in_a_channel(one)
    row["Spearman, state and elements after"] = spearman(*_measured(one.after, one.state))
    # JSON has no NaN.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _in_a_channel(one: Sample) -> float:
    """Return the median over channels of the correlation between their own intervals and states."""
    if not one.channels:
        return math.nan
    intervals, states = (torch.cat(parts).unbind(1) for parts in zip(*one.channels, strict=True))
    pairs = [(x[y.isfinite()], y[y.isfinite()]) for x, y in zip(intervals, states, strict=True)]
    return median(_tensor([spearman(x, y) for x, y in pairs]))


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _measured(x: list[float], y: list[float]) -> tuple[Tensor, Tensor]:
    there = _tensor(y).isfinite()
    return _tensor(x)[there], _tensor(y)[there]


def _words(rows: list[dict[str, Any]], sequences: int) -> str:
    return (
        f"elements of {sequences} sequences, left out one at a time inside one layer at a time. With the data fixed, "
        f"the last state moves as the interval to the power {_range(rows, 'slope, data fixed')}; Proposition 1 says 1."
        "\n"
        f"Between elements, the interval ranks with the change of the state at {_range(rows, 'Spearman, state')}, and "
        f"with that of the output at {_range(rows, 'Spearman, output')} (Spearman).\n"
        "The proposition does not promise the second line: how far an element moves the state depends on its input, on "
        "what came before and on the time since as well. An interval is not an amount of information."
    )


def _range(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{min(values):.2f} to {max(values):.2f}" if values else "(not measured)"


def _charts(samples: list[Described]) -> list[Chart]:
    parts: dict[tuple[str, str], list[Described]] = {}
    for one, row in samples:
        parts.setdefault((one.part.key, one.branch), []).append((one, row))
    charts = []
    for group in list(parts.values())[:SHOWN]:
        first, _ = group[0]
        title = f"layer {first.part.layer}, {type(first.part.module).__name__} {first.branch}".rstrip()
        charts.append(_chart(f"{title}: last state", r"$\|h_L - h_L^{(n)}\|$", group, "state"))
        charts.append(_chart(f"{title}: output", "divergence (nats)", group, "output"))
    return charts


def _chart(title: str, y_label: str, group: list[Described], what: str) -> Chart:
    curves, ranked = [], []
    for one, row in group:
        values = getattr(one, what)
        correlation = row[f"Spearman, {what}"]
        ranked.append("-" if correlation is None else f"{correlation:.2f}")
        seen = [(x, y) for x, y in zip(one.interval, values, strict=True) if x > 0 and y > 0]
        curves.append(
            Curve(label=one.definition, x=[x for x, _ in seen], y=[y for _, y in seen], style="points")
        )
    return Chart(
        title=f"{title}, Spearman {', '.join(ranked)}",
        curves=curves,
        x_label="interval of the element left out",
        y_label=y_label,
        log_x=True,
        log_y=True,
    )
