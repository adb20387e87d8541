"""What the runs of a study say: values over seeds of every cell and condition, comparisons, what is missing.

Everything is read from the run folders and returned as plain data, the content of ``results.json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_eval.checkpoint import count_parameters, pointer
from ssm_eval.stats import holm, summarise
from ssm_train.study.comparisons import LEVEL, Row, compared, planned
from ssm_train.study.folder import StudyFolder, measured
from ssm_train.study.plan import Cell, Plan, key, seeded
from ssm_train.study.thresholds import thresholds


def analyse(plan: Plan, folder: StudyFolder) -> Row:
    """Read off what is finished.

    Args:
        plan: The study; all of its cells are reported, and all seeds of which there are runs, whichever were to be run.
        folder: Where its runs are.

    Returns:
        ``{study, summary, question, recipe, set, seeds, metric, level, axes, tests, cells, comparisons, thresholds,
        runs, missing}``, plain. A cell is ``{levels, parameters, runs, tests}``, the last ``{condition: {metric:
        {values, n, not_finite, lost, mean, std, low, high}}}`` with one value a seed, None where there is none or it is
        not finite; ``lost`` are the seeds of the latter. A comparison is what
        :func:`ssm_train.study.comparisons.compared` returns, with ``block`` and ``p_holm``, corrected within its block;
        a threshold is what :func:`ssm_train.study.thresholds.thresholds` returns. ``runs`` is the number of distinct
        runs, of which ``missing`` are not finished, or not measured under every condition.
    """
    reader = _Reader(plan, folder)
    cells = [reader.cell(cell) for cell in plan.cells]
    study = plan.study
    metric = study.metric or reader.selecting()
    return {
        "study": study.name,
        "summary": study.summary,
        "question": study.question,
        "recipe": study.recipe,
        "set": plain(plan.overrides),
        "seeds": reader.seeds,
        "metric": metric,
        "level": LEVEL,
        "axes": {axis.name: list(axis.levels) for axis in study.axes},
        "tests": {condition.name: plain(condition.settings) for condition in study.tests},
        "cells": cells,
        "comparisons": _comparisons(plan, cells, metric),
        "thresholds": thresholds(study, cells, metric),
        "runs": len(reader.asked),
        "missing": list(reader.missing.values()),
    }


class _Reader:
    """Reads the cells of a study, one after the other."""

    def __init__(self, plan: Plan, folder: StudyFolder) -> None:
        self.plan, self.folder = plan, folder
        self.found = folder.found()
        self.asked: dict[str, None] = {}
        self.missing: dict[str, Row] = {}
        held = {run.config_tree()["seed"] for run in self.found.values()}
        others = [
            seed
            for seed in sorted(held - set(plan.seeds))
            if any(_key(cell, seed) in self.found for cell in plan.cells)
        ]
        self.seeds = [*plan.seeds, *others]

    def cell(self, cell: Cell) -> Row:
        """Return the values of a cell, and take note of its runs that are missing."""
        conditions = self.plan.study.tests
        runs: dict[int, RunFolder] = {}
        values: dict[str, dict[int, dict[str, float]]] = {condition.name: {} for condition in conditions}
        for seed in self.seeds:
            run = self.found.get(_key(cell, seed))
            lacking = [condition.name for condition in conditions]
            if run is not None:
                runs[seed] = run
                for condition in conditions:
                    metrics = measured(run, condition.settings) if _finished(run) else None
                    if metrics is not None:
                        values[condition.name][seed] = metrics
                        lacking.remove(condition.name)
            self._note(cell, seed, run, lacking)
        return {
            "levels": dict(cell.levels),
            "parameters": next(
                (n for run in runs.values() if (n := count_parameters(run)) is not None), None
            ),
            "runs": {str(seed): str(run.path.relative_to(self.folder.path)) for seed, run in runs.items()},
            "tests": {name: _over_seeds(by_seed, self.seeds) for name, by_seed in values.items()},
        }

    def _note(self, cell: Cell, seed: int, run: RunFolder | None, lacking: list[str]) -> None:
        """Count a run, once for all cells that share it; one of a seed that was not asked for need not be there."""
        if run is None and seed not in self.plan.seeds:
            return
        held = _key(cell, seed)
        self.asked[held] = None
        if lacking:
            row = {"cell": cell.name, "seed": seed, "state": _state(run), "tests": lacking}
            self.missing.setdefault(held, row)

    def selecting(self) -> str:
        """Return the metric that selected the best checkpoint of a run of the study, or nothing before there is one."""
        for held in self.asked:
            try:
                if held in self.found:
                    return str(pointer(self.found[held])["metric"])
            except UserError:
                continue
        return ""


def _key(cell: Cell, seed: int) -> str:
    return key(seeded(cell.config, seed).to_tree())


def _over_seeds(by_seed: Mapping[int, Mapping[str, float]], seeds: Iterable[int]) -> dict[str, Row]:
    names = dict.fromkeys(name for metrics in by_seed.values() for name in metrics)
    return {name: _summary({seed: by_seed.get(seed, {}).get(name) for seed in seeds}) for name in names}


def _summary(values: Mapping[int, float | None]) -> Row:
    finite = {seed: v if v is not None and math.isfinite(v) else None for seed, v in values.items()}
    known = [value for value in finite.values() if value is not None]
    lost = [str(seed) for seed, v in values.items() if v is not None and finite[seed] is None]
    summary = summarise(known, LEVEL) if known else None
    return {
        "values": {str(seed): value for seed, value in finite.items()},
        "n": len(known),
        "not_finite": len(lost),
        "lost": lost,
        **{name: summary and getattr(summary, name) for name in ("mean", "std", "low", "high")},
    }


def _comparisons(plan: Plan, cells: list[Row], metric: str) -> list[Row]:
    rows = list[Row]()
    for number, block in enumerate(planned(plan), 1):
        found = [{"block": number, **compared(each, cells, metric)} for each in block]
        for row, corrected in zip(found, holm([row["p"] for row in found]), strict=True):
            rows.append({**row, "p_holm": corrected})
    return rows


def _finished(run: RunFolder) -> bool:
    return run.status().get("state") == "finished"


def _state(run: RunFolder | None) -> str:
    if run is None:
        return "not begun"
    status = run.status()
    reason = str(status.get("reason", "")).splitlines()
    state = status.get("state", "begun")
    if reason and reason[0].startswith(state):  # interrupted by what
        return reason[0]
    return f"{state}{': ' + reason[0] if reason else ''}"
