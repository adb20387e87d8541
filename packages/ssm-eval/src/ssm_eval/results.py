"""What a run folder tells of a run's outcome: its test result, size, speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, read_json
from ssm_eval.checkpoint import count_parameters, pointer


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run's outcome.

    Attributes:
        path: The run folder.
        config: The run's configuration.
        versions: Each plugin's version when the run was made.
        identity: What else makes it another run, as far as it was noted: ``task`` and ``model`` (classes), ``shapes``
            (a hash of the parameters'), and ``data.<split>`` (the split's fingerprint).
        metric: The metric that selected the best checkpoint; empty before the first checkpoint.
        value: That metric on the test split at the best checkpoint, None if it was not tested or is not finite.
        parameters: Scalars in the model's parameters, None if that is not known.
        seconds_per_epoch: Median time from one epoch's validation to the next's, None for a single one.
        epochs: Epochs begun.
        state: What the run's status says: running, finished, interrupted, failed; empty if nothing.
    """

    path: Path
    config: RunConfig
    versions: Mapping[str, str]
    identity: Mapping[str, str]
    metric: str
    value: float | None
    parameters: int | None
    seconds_per_epoch: float | None
    epochs: int
    state: str


def read_result(run: RunFolder | Path | str) -> Result:
    """Read a run's outcome from its folder.

    Raises:
        UserError: If the folder is no run, or its configuration names plugins that are not installed.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    rows = list(folder.metrics())
    try:
        best = pointer(folder)
    except UserError:  # stopped before its first checkpoint: still a run
        best = {"step": -1, "metric": ""}
    return Result(
        path=folder.path,
        config=folder.config(),
        versions=folder.config_tree().get("plugins", {}),
        identity=_identity(folder),
        metric=best["metric"],
        value=_test_value(folder, rows, best),
        parameters=count_parameters(folder),
        seconds_per_epoch=seconds_per_epoch(rows),
        epochs=1 + max((int(row["epoch"]) for row in rows), default=-1),
        state=str(folder.status().get("state", "")),
    )


def _identity(run: RunFolder) -> dict[str, str]:
    made = run.env().get("made", {})
    own = {key: str(made[key]) for key in ("task", "model", "shapes") if key in made}
    prints = {name: told.get("fingerprint") for name, told in run.data().items() if told}
    return own | {f"data.{name}": value for name, value in prints.items() if value is not None}


def _test_value(
    folder: RunFolder, rows: Iterable[Mapping[str, Any]], best: Mapping[str, Any]
) -> float | None:
    """Return the test metric at the best step: from the metrics, else from what ``ssm eval`` has stored."""
    wanted = {"step": best["step"], "split": "test", "name": best["metric"]}
    values = [row["value"] for row in rows if all(row[key] == want for key, want in wanted.items())]
    stored = folder.path / "eval" / f"test@{best['step']}.json"
    if not values and stored.is_file():
        values = [read_json(stored)["metrics"].get(best["metric"])]
    value = values[-1] if values else None
    return value if value is not None and math.isfinite(value) else None


def seconds_per_epoch(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the median time of an epoch, its validation included, None if there are not two to compare.

    Args:
        rows: Rows of ``metrics.jsonl``.
    """
    ends: dict[int, float] = {}
    for row in rows:
        if row["split"] == "validation":
            ends[int(row["epoch"])] = float(row["wall"])
    order = sorted(ends)
    times = [(ends[b] - ends[a]) / (b - a) for a, b in pairwise(order)]
    # A clock that was set back between two parts of a run gives no time.
    return statistics.median(times) if (times := [t for t in times if t > 0]) else None
