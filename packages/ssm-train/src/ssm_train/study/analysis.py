"""What the runs of a study say: values over seeds of every cell and condition, comparisons, what is missing.

Everything is read from the run folders and returned as plain data, the content of ``results.json``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_eval.checkpoint import count_scalars, pointer
from ssm_eval.stats import holm, paired, summarise
from ssm_train.study.definition import Compare, as_list, matches
from ssm_train.study.folder import StudyFolder, measured
from ssm_train.study.plan import Cell, Plan, key, seeded

Row: TypeAlias = dict[str, Any]

LEVEL = 0.95
"""Confidence level of the intervals."""


def analyse(plan: Plan, folder: StudyFolder) -> Row:
    """Read off what is finished.

    Args:
        plan: The study; all of its cells are reported, whichever were to be run.
        folder: Where its runs are.

    Returns:
        ``{study, summary, question, recipe, set, seeds, metric, axes, tests, cells, comparisons, missing}``, plain.
        A cell is ``{levels, parameters, runs, tests}``, the last ``{condition: {metric: {values, n, mean, std, low,
        high}}}`` with one value a seed, None where there is none or it is not finite.
    """
    found, missing = folder.found(), list[Row]()
    cells = [_cell(cell, plan, folder, found, missing) for cell in plan.cells]
    study = plan.study
    metric = study.metric or _selecting(plan, found)
    comparisons = [row for compare in study.compare for row in _compare(compare, plan, cells, metric)]
    for row, corrected in zip(comparisons, holm([row["p"] for row in comparisons]), strict=True):
        row["p_holm"] = corrected
    return {
        "study": study.name,
        "summary": study.summary,
        "question": study.question,
        "recipe": study.recipe,
        "set": plain(plan.overrides),
        "seeds": list(plan.seeds),
        "metric": metric,
        "level": LEVEL,
        "axes": {axis.name: list(axis.levels) for axis in study.axes},
        "tests": {condition.name: plain(condition.settings) for condition in study.tests},
        "cells": cells,
        "comparisons": comparisons,
        "missing": missing,
    }


def _cell(
    cell: Cell, plan: Plan, folder: StudyFolder, found: Mapping[str, RunFolder], missing: list[Row]
) -> Row:
    runs: dict[int, RunFolder] = {}
    values: dict[str, dict[int, dict[str, float]]] = {c.name: {} for c in plan.study.tests}
    for seed in plan.seeds:
        run = found.get(key(seeded(cell.config, seed).to_tree()))
        lacking = [condition.name for condition in plan.study.tests]
        if run is not None:
            runs[seed] = run
            for condition in plan.study.tests:
                metrics = measured(run, condition.settings) if _finished(run) else None
                if metrics is not None:
                    values[condition.name][seed] = metrics
                    lacking.remove(condition.name)
        if lacking:
            missing.append({"cell": cell.name, "seed": seed, "state": _state(run), "tests": lacking})
    return {
        "levels": dict(cell.levels),
        "parameters": next((n for run in runs.values() if (n := _parameters(run)) is not None), None),
        "runs": {str(seed): str(run.path.relative_to(folder.path)) for seed, run in runs.items()},
        "tests": {name: _over_seeds(by_seed, plan.seeds) for name, by_seed in values.items()},
    }


def _over_seeds(by_seed: Mapping[int, Mapping[str, float]], seeds: Iterable[int]) -> dict[str, Row]:
    names = dict.fromkeys(name for metrics in by_seed.values() for name in metrics)
    return {name: _summary({seed: by_seed.get(seed, {}).get(name) for seed in seeds}) for name in names}


def _summary(values: Mapping[int, float | None]) -> Row:
    finite = {seed: v if v is not None and math.isfinite(v) else None for seed, v in values.items()}
    known = [value for value in finite.values() if value is not None]
    summary = summarise(known, LEVEL) if known else None
    return {
        "values": {str(seed): value for seed, value in finite.items()},
        "n": len(known),
        "not_finite": sum(v is not None and finite[seed] is None for seed, v in values.items()),
        **{name: summary and getattr(summary, name) for name in ("mean", "std", "low", "high")},
    }


def _finished(run: RunFolder) -> bool:
    return _status(run).get("state") == "finished"


def _status(run: RunFolder) -> dict[str, Any]:
    try:
        return run.status()
    except UserError:
        return {}


def _state(run: RunFolder | None) -> str:
    if run is None:
        return "not begun"
    status = _status(run)
    reason = str(status.get("reason", "")).splitlines()
    return f"{status.get('state', 'begun')}{': ' + reason[0] if reason else ''}"


def _parameters(run: RunFolder) -> int | None:
    try:
        return count_scalars(run.checkpoint() / "model.safetensors")
    except UserError:
        return None


def _selecting(plan: Plan, found: Mapping[str, RunFolder]) -> str:
    """Return the metric that selected the best checkpoint of a run of the study, or nothing before there is one."""
    for cell, seed in itertools.product(plan.cells, plan.seeds):
        run = found.get(key(seeded(cell.config, seed).to_tree()))
        try:
            if run is not None:
                return str(pointer(run)["metric"])
        except UserError:
            continue
    return ""


def _compare(compare: Compare, plan: Plan, cells: list[Row], metric: str) -> Iterator[Row]:
    """Yield a row for each level in question, combination of the other axes, and condition."""
    metric = compare.metric or metric
    axes = [axis.name for axis in plan.study.axes if axis.name not in (*compare.of, *compare.pool)]
    fixed = dict.fromkeys(tuple(cell["levels"][name] for name in axes) for cell in cells)
    conditions = compare.tests or [condition.name for condition in plan.study.tests]
    for of, against in itertools.product(_each(compare.of), _each(compare.against)):
        for at in {} if of == against else fixed:
            places = dict(zip(axes, at, strict=True))
            inside = [
                c for c in cells if matches(c["levels"], places) and matches(c["levels"], compare.within)
            ]
            pairs = list(_partners(inside, of, against))
            for condition in conditions if pairs else ():
                row = _row(compare, pairs, condition, metric)
                yield {"of": of, "against": against, "at": places, "test": condition, "metric": metric, **row}


def _each(places: Mapping[str, str | list[str]]) -> list[dict[str, str]]:
    return [
        dict(zip(places, levels, strict=True)) for levels in itertools.product(*map(as_list, places.values()))
    ]


def _partners(
    cells: list[Row], of: Mapping[str, str], against: Mapping[str, str]
) -> Iterator[tuple[Row, Row]]:
    """Yield the cells that differ in the compared axes alone."""
    for cell in cells:
        if matches(cell["levels"], of):
            wanted = {**cell["levels"], **against}
            yield from ((cell, other) for other in cells if other["levels"] == wanted)


def _row(compare: Compare, pairs: list[tuple[Row, Row]], condition: str, metric: str) -> Row:
    first, second = list[float](), list[float]()
    for one, other in pairs:
        values = [cell["tests"][condition].get(metric, {}).get("values", {}) for cell in (one, other)]
        for seed in values[0]:
            a, b = values[0][seed], values[1].get(seed)
            if a is not None and b is not None:
                first.append(a)
                second.append(b)
    on = compare.on if compare.on == "difference" or min([*first, *second, 1.0]) > 0 else "difference"
    result = plain(paired(first, second, level=LEVEL, on=on)) if first else {}
    names = ("difference", "low", "high", "ratio", "ratio_low", "ratio_high", "p")
    return {"n": len(first), "on": on, **{name: result.get(name) for name in names}}
