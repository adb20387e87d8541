"""What share of training steps is spent waiting for batches, by a short run that is thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from ssm_core.protocols import Split, Task
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_train.training import fit

WARM_UP = 2
"""Steps of a run before: what is compiled and loaded once a process would hide the waiting."""


def wait_share(run: RunConfig, task: Task, steps: int) -> float:
    """Train for some steps, without evaluation, and return the share of their time spent waiting for batches.

    Args:
        run: Model, task and loop; the schedule's end does not matter.
        task: Its task.
        steps: Steps to watch.

    Raises:
        UserError: If the run cannot work.
    """
    for length in (WARM_UP, steps):
        # Nothing here waits for a validation metric: there is no such split.
        train = replace(run.train, epochs=1, steps=length, patience=0, checkpoint_every=0)
        optim = replace(run.optim, schedule="constant")
        with tempfile.TemporaryDirectory(prefix="ssm-feeding-") as folder:
            only = cast("Task", TrainingOnly(task))
            path = fit(replace(run, train=train, optim=optim), only, out=folder, quiet=True)
            rows = [row for row in RunFolder(path).metrics() if row["name"] == "wait_share"]
    # One row an epoch: each counts as long as it was.
    ends = [0, *(row["step"] for row in rows)]
    return (
        sum(row["value"] * (row["step"] - begin) for row, begin in zip(rows, ends, strict=False)) / ends[-1]
    )


class TrainingOnly:
    """A task without the splits that a run is evaluated on.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def splits(self) -> Mapping[str, Split]:
        """Return the training split."""
        return {"train": self._task.splits()["train"]}
