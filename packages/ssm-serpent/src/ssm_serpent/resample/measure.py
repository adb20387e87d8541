"""The probe: one sequence, and what every compressed branch makes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ssm_core.evaluating import evaluating
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Chart, Curve, Result
from ssm_serpent.resample.branches import Branch, branches_of
from ssm_serpent.resample.elements import row_of_text, texts
from ssm_serpent.resample.page import page
from ssm_serpent.resample.spec import ResampleConfig
from ssm_serpent.resample.terminal import printed

PAGE = "resample.html"


def probe(model: Any, dataset: Any, config: ResampleConfig) -> Result:
    """Show intervals, running times and points of one sequence.

    Args:
        model: A trained :class:`ssm_core.model.SequenceModel`.
        dataset: Sequences, a map-style data set; the test split of the run.
        config: Knobs.

    Raises:
        UserError: Without a model; if no layer of it resamples; for a sequence that is not there, or a text that the
            task cannot take.
    """
    if model is None:
        raise UserError("the probe resample looks into a trained model", "ssm probe resample RUN")
    if config.text is None:
        index = config.index or 0
        if not -len(dataset) <= index < len(dataset):
            raise UserError(
                f"there is no sequence {index}: the test split has {len(dataset)}", "--set index=0"
            )
        index %= len(dataset)
        row, what = dataset[index], f"sequence {index} of the test split"
    else:
        row, what = row_of_text(model.task, dataset, config.text), f"the text {config.text!r}"
    # Without resets: the sequence counts as one document.
    batch = replace(model.task.collate([row]), reset_bl=None)
    with evaluating(model) as device:
        branches = branches_of(model, batch.to(device), config.layers)
    words = texts(dataset, row.get("inputs"))
    return Result(
        text=f"{what}\n{printed(branches, words, config.shown, color=_colored(config))}",
        figures={"elements": max((len(branch.elements) for branch in branches), default=0)},
        rows=[_row(branch) for branch in branches],
        charts=_charts(branches),
        files={PAGE: page(branches, words, what)},
    )


def _colored(config: ResampleConfig) -> bool:
    if config.color != "auto":
        return config.color == "always"
    # The command keeps standard output for itself while a probe runs; the text goes to the real one afterwards.
    terminal = sys.__stdout__
    return terminal is not None and terminal.isatty() and not os.environ.get("NO_COLOR")


def _row(branch: Branch) -> dict[str, Any]:
    count, points = len(branch.elements), branch.points
    return {
        "layer": branch.layer,
        "branch": branch.name,
        "kappa": branch.kappa,
        "tokens": count,
        "points": points,
        "compression": points / count if count else None,
        "in no window": sum(held is None for held in branch.holders()),
        "mean interval": sum(branch.intervals) / count if count else None,
        "min": min(branch.intervals, default=None),
        "max": max(branch.intervals, default=None),
    }


def _charts(branches: Sequence[Branch]) -> list[Chart]:
    charts = []
    for layer in sorted({branch.layer for branch in branches}):
        there = [branch for branch in branches if branch.layer == layer]
        charts.append(
            Chart(
                title=f"layer {layer}: interval of each element",
                curves=[Curve(label=_label(one), x=one.elements, y=one.intervals) for one in there],
                x_label="element",
                y_label="interval (grid spacings)",
            )
        )
        times = [Curve(label=_label(one), x=one.elements, y=one.times) for one in there]
        times += [
            Curve(
                label=f"points of branch {one.name}",
                x=[one.elements[event] for event in one.events],
                y=[one.times[event] for event in one.events],
                style="points",
                same_as=_label(one),
            )
            for one in there
        ]
        times += [_windows(one) for one in there]
        charts.append(
            Chart(
                title=f"layer {layer}: running time, points and their windows",
                curves=times,
                x_label="element",
                y_label="time (grid spacings)",
            )
        )
    return charts


def _windows(branch: Branch) -> Curve:
    """Return a bar for each point at its height, over the elements that it is made of."""
    x: list[float] = []
    y: list[float | None] = []
    for point, (start, end) in enumerate(branch.windows, 1):
        if start < end:
            x += [branch.elements[start] - 0.5, *[branch.elements[end - 1] + 0.5] * 2]
            y += [point, point, None]
    return Curve(label=f"windows of branch {branch.name}", x=x, y=y, same_as=_label(branch))


def _label(branch: Branch) -> str:
    return f"branch {branch.name}, kappa {branch.kappa:g}"
