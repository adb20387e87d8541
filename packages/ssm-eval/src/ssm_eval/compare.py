"""Runs side by side: one row a setting, its seeds summarised."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_eval.published import published_for
from ssm_eval.results import Result, read_result
from ssm_eval.stats import summarise

LEVEL = 0.95
"""Confidence level of the intervals in a comparison."""

HOUSEKEEPING = ("threads", "workers", "tracker", "keep", "checkpoint_every")
"""Settings of ``train`` that make no other experiment: seeds run side by side have fewer threads than one alone."""

COLUMNS = (
    "label",
    "seeds",
    "metric",
    "mean",
    "std",
    "low",
    "high",
    "parameters",
    "seconds_per_epoch",
    "epochs",
    "published",
)
"""Columns of the table, left out where no row has anything in them."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        title: What the numbers are.
        columns: Keys of the rows to show in a table, in their order.
        rows: One mapping a setting: ``label``, ``seeds``, ``metric``, ``values`` (the test metric a seed, None
            where missing), their ``n``, ``mean``, ``std``, ``low`` and ``high`` (ends of the interval of the mean),
            ``parameters``, ``seconds_per_epoch``, ``epochs``, ``published``, ``published_std`` and ``runs`` (folders).
        notes: What the reader should know: runs without a result, runs left out.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def compare_runs(runs: Sequence[Path | str | RunFolder]) -> Comparison:
    """Put runs side by side; those that differ by their seed alone make one row.

    Args:
        runs: Run folders, of one task.

    Raises:
        UserError: If there is none, one is no run folder, or they are of different tasks or select by different
            metrics.
    """
    paths = dict.fromkeys((r.path if isinstance(r, RunFolder) else Path(r)).resolve() for r in runs)
    results = [read_result(path) for path in paths]
    if not results:
        raise UserError("there are no runs to compare", "give run folders, as `ssm train` printed them")
    task = _one("tasks", {r.path: r.config.task.name if r.config.task else "one's own" for r in results})
    metric = _one("metrics", {r.path: r.metric for r in results if r.metric}) if _any_metric(results) else ""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(_settings(result), sort_keys=True), []).append(result)
    notes: list[str] = []
    parts = [part for group in groups.values() for part in _told_apart(group)]
    kept = [_one_a_seed(group, notes) for group, _ in parts]
    labels = [f"{label}{mark}" for label, (_, mark) in zip(_labels(kept), parts, strict=True)]
    rows = [_row(group, label, metric) for group, label in zip(kept, labels, strict=True)]
    columns = tuple(key for key in COLUMNS if any(row[key] is not None for row in rows))
    title = f"test {metric or 'result'} on {task.rpartition('/')[2]}: mean, std and {LEVEL:.0%} interval over seeds"
    return Comparison(title, columns, rows, tuple(notes))


def seeds_line(values: Iterable[float]) -> str:
    """Return one line about the results of several seeds: ``3 seeds: 0.00341, std 0.00027, 95 % interval ...``.

    Raises:
        UserError: As :func:`ssm_eval.stats.summarise`.
    """
    summary = summarise(values, LEVEL)
    return f"{summary.n} seed{'s' if summary.n > 1 else ''}: {summary}"


def _any_metric(results: Iterable[Result]) -> bool:
    return any(result.metric for result in results)


def _one(what: str, found: dict[Path, str]) -> str:
    """Return the one value that all runs share."""
    distinct = sorted(set(found.values()))
    if len(distinct) > 1:
        shown = [f"{value}: {next(p for p, v in found.items() if v == value)}" for value in distinct]
        raise UserError(
            f"runs of different {what} cannot be compared ({'; '.join(shown)})", "compare each on its own"
        )
    return distinct[0]


def _settings(result: Result) -> dict[str, Any]:
    """Return all that makes a run but its seed, and but what leaves its numbers alone."""
    tree = result.config.to_tree()
    tree["plugins"] = dict(result.versions)
    tree["train"] = {key: value for key, value in tree["train"].items() if key not in HOUSEKEEPING}
    return {key: value for key, value in tree.items() if key not in ("seed", "recipe", "schema")}


def _told_apart(group: Iterable[Result]) -> list[tuple[list[Result], str]]:
    """Part runs of the same settings by what settings do not tell: one's own classes, the data; with what to call each.

    A run that has not noted something goes with the others, unless these differ in it.
    """
    group = list(group)
    known: dict[str, set[str]] = {}
    for result in group:
        for key, value in result.identity.items():
            known.setdefault(key, set()).add(value)
    differing = [key for key, values in known.items() if len(values) > 1]
    parts: dict[str, list[Result]] = {}
    for result in group:
        marks = [f" {key}={_short(key, result.identity.get(key, 'unknown'))}" for key in differing]
        parts.setdefault("".join(marks), []).append(result)
    return [(part, mark) for mark, part in parts.items()]


def _short(key: str, value: str) -> str:
    return value if key in ("task", "model") else value[:8]


def _one_a_seed(group: list[Result], notes: list[str]) -> list[Result]:
    """Keep one run of each seed, for a repeated one is no further sample: the last that has a result."""
    kept: dict[int, Result] = {}
    # Folder names begin with the time, so their order is that of the runs.
    for result in sorted(group, key=lambda r: (r.value is not None, r.path.name)):
        if (older := kept.pop(result.config.seed, None)) is not None:
            notes.append(f"left out {older.path}: {result.path.name} has the same settings and seed")
        kept[result.config.seed] = result
    for result in kept.values():
        if result.value is None:
            state = f" (it is {result.state})" if result.state else ""
            notes.append(f"{result.path} has no test result{state}; `ssm eval` makes one")
    return [kept[seed] for seed in sorted(kept)]


def _row(group: list[Result], label: str, metric: str) -> dict[str, Any]:
    values = [result.value for result in group]
    known = [value for value in values if value is not None]
    summary = summarise(known, LEVEL) if known else None
    seconds = [r.seconds_per_epoch for r in group if r.seconds_per_epoch is not None]
    published = published_for(group[0].config, metric)
    return {
        "label": label,
        "seeds": [result.config.seed for result in group],
        "metric": metric or None,
        "values": values,
        "n": len(known),
        "mean": summary and summary.mean,
        "std": summary and summary.std,
        "low": summary and summary.low,
        "high": summary and summary.high,
        "parameters": next((r.parameters for r in group if r.parameters is not None), None),
        "seconds_per_epoch": statistics.median(seconds) if seconds else None,
        "epochs": max(result.epochs for result in group),
        "published": published and published.value,
        "published_std": published and published.std,
        "runs": [str(result.path) for result in group],
    }


def _labels(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Return backbone and add-ons of each group, with the settings in which it differs from others.

    A plugin's own settings are compared among groups of the same backbone and add-ons only: between two backbones
    they differ by nature.
    """
    flattened = [flat(_settings(group[0])) for group in groups]
    names = [group[0].config.label() for group in groups]
    labels = []
    for own, name in zip(flattened, names, strict=True):
        peers = [other for other, label in zip(flattened, names, strict=True) if label == name]
        parts = [name]
        for key, value in own.items():
            of_plugin = key.startswith(("backbone.", "addons.", "plugins."))
            others = peers if of_plugin else flattened
            # Of what is not set, the others' labels say all that there is.
            if value is not None and any(other.get(key, value) != value for other in others):
                parts.append(f"{key}={value}")
        labels.append(" ".join(parts))
    return labels


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return ``{"a": {"b": 1}}`` as ``{"a.b": 1}``; add-ons under their short names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key.rpartition('/')[2]}" if prefix == "addons." else f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
