"""From the results of a study to the panels of its figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ssm_eval.plots.study import Line, Panel, Picture
from ssm_train.study.definition import TESTS, Study


def layout(study: Study, results: Mapping[str, Any]) -> Picture:
    """Return the picture of a study's results, without panels if there is nothing to show."""
    figure, metric = study.figure, results["metric"]
    axes = [axis.name for axis in study.axes]
    conditions = figure.tests or study.levels(TESTS)
    x = figure.x or (TESTS if len(conditions) > 1 else axes[0])
    placed = {x, *figure.lines, *figure.panels}
    lines = [*figure.lines, *(name for name in axes if name not in placed)]
    if TESTS not in placed:
        conditions = conditions[:1]
    shown = {name: study.levels(name) for name in axes} | {TESTS: conditions}
    ticks, places = _abscissa(study, x, shown[x])
    points = {
        _where(cell, test): cell["tests"][test].get(metric)
        for cell in results["cells"]
        for test in conditions
    }
    panels = []
    for panel in _combinations(figure.panels, shown):
        found = [
            line
            for each in _combinations(lines, shown)
            if (line := _line({**panel, **each}, each, x, ticks, places, points)).x
        ]
        if found:
            panels.append(Panel(", ".join(panel.values()) or study.name, found))
    lost = any(point["not_finite"] for point in points.values() if point)
    return Picture(
        panels=panels,
        title=(study.summary or study.name) + (" (without values that are not finite)" if lost else ""),
        x_label=figure.x_label or ("" if x == TESTS else x),
        metric=metric,
        labels=[", ".join(each.values()) for each in _combinations(lines, shown)],
        ticks=None if places else ticks,
        log_x=figure.log_x and bool(places),
        log_y=figure.log_y,
    )


def _abscissa(study: Study, x: str, labels: list[str]) -> tuple[list[str], list[float]]:
    """Return the labels along the abscissa, and their places if these are numbers.

    Conditions without a place are left out where others have one.
    """
    if x == TESTS:
        numbers = {c.name: c.x for c in study.tests if c.x is not None and c.name in labels}
        return (list(numbers), list(numbers.values())) if numbers else (labels, [])
    try:
        return labels, [float(label) for label in labels]
    except ValueError:
        return labels, []


def _combinations(names: Sequence[str], shown: Mapping[str, list[str]]) -> list[dict[str, str]]:
    return [
        dict(zip(names, levels, strict=True))
        for levels in itertools.product(*(shown[name] for name in names))
    ]


def _where(cell: Mapping[str, Any], test: str) -> frozenset[tuple[str, str]]:
    return frozenset({**cell["levels"], TESTS: test}.items())


def _line(
    at: dict[str, str],
    each: Mapping[str, str],
    x: str,
    ticks: list[str],
    places: list[float],
    points: Mapping[frozenset[tuple[str, str]], Mapping[str, Any] | None],
) -> Line:
    line = Line(", ".join(each.values()))
    for place, tick in enumerate(ticks):
        wanted = {**at, x: tick}.items()
        # An axis that is nowhere in the figure has one condition only: the first.
        point = next((p for where, p in points.items() if where >= set(wanted) and p is not None), None)
        if point is not None and point["mean"] is not None:
            line.add(places[place] if places else float(place), point["mean"], point["low"], point["high"])
    return line
