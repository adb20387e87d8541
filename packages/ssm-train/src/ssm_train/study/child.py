"""One run of a study, in a process of its own: train it, or go on with it, and measure it under every condition.

What has been done is not done again: a finished run is only measured, and only under the conditions that are new.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from filelock import Timeout

from ssm_train.study.folder import StudyFolder, lock_of, measured, rank
from ssm_train.study.plan import key


def main(order: str, answer: str) -> None:
    """Do what an order file says and write the answer; the entry of a child process.

    The order is ``{study, job, config, conditions}``, the first two being folders; the answer ``{run}``,
    ``{error, interrupted}``, or ``{busy}`` if another process has the job. How long a whole run took is kept in the
    job's folder.
    """
    wanted = json.loads(Path(order).read_text())
    lock = lock_of(Path(wanted["job"]))  # by name: a lock that nothing refers to frees itself
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _tell(answer, {"busy": True})
        return
    from ssm_core.plugin.errors import UserError
    from ssm_train.errors import RunInterrupted, TrainingFailed

    began, done = time.monotonic(), dict[str, Any]()
    try:
        run, whole = _train(wanted)
        done = {"run": str(run)}
        _measure(run, wanted["conditions"], wanted["config"]["train"]["device"])
        if whole:
            took = {"seconds": time.monotonic() - began}
            Path(wanted["job"], "took.json").write_text(json.dumps(took))
    except (TrainingFailed, UserError) as error:
        done |= {"error": str(error), "interrupted": isinstance(error, RunInterrupted)}
    _tell(answer, done)
    sys.exit("error" in done)


def _tell(answer: str, value: dict[str, Any]) -> None:
    Path(answer).write_text(json.dumps(value))


def _train(wanted: dict[str, Any]) -> tuple[Path, bool]:
    """Return the finished run, and whether all of it was done here and now."""
    from ssm_core.run.config import RunConfig
    from ssm_train.device import set_threads
    from ssm_train.training import fit, resume

    held = StudyFolder(wanted["study"]).found().get(key(wanted["config"]))
    if held is None or rank(held) == 0:
        runs = StudyFolder(wanted["study"]).runs
        return fit(RunConfig.from_tree(wanted["config"]), out=runs, quiet=True), True
    if rank(held) == 1:
        return resume(held.path, {"threads": wanted["config"]["train"]["threads"]}, quiet=True), False
    set_threads(wanted["config"]["train"]["threads"])
    return held.path, False


def _measure(run: Path, conditions: list[dict[str, Any]], device: str) -> None:
    from ssm_core.plugin.errors import UserError
    from ssm_core.run.folder import RunFolder
    from ssm_eval.evaluation import evaluate_run

    for settings in conditions:
        if measured(RunFolder(run), settings) is not None:
            continue
        # Notes are of other data, or of a result that is not kept: either way the study has none.
        if notes := evaluate_run(run, overrides=settings or None, device=device)["notes"]:
            raise UserError(f"{run} cannot be measured: {'; '.join(notes)}")
