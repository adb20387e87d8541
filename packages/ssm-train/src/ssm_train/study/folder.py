"""The folder of a study: its runs, what is known of each, and the log and lock of each job.

``runs/`` holds ordinary run folders; ``jobs/<label>-<hash>/`` the lock, the log and the time of one run each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, read_json
from ssm_eval.checkpoint import pointer
from ssm_train.study.plan import Job, key


class StudyFolder:
    """What a study has on disk.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._keys: dict[Path, str] = {}

    @property
    def runs(self) -> Path:
        """Root of the run folders."""
        return self.path / "runs"

    def job(self, job: Job) -> Path:
        """Return the folder of a job's lock, log and time, made if need be.

        Raises:
            UserError: If it cannot be made.
        """
        return _made(self.path / "jobs" / job.key)

    def make(self) -> None:
        """Make the folder itself, if need be.

        Raises:
            UserError: If it cannot be made.
        """
        _made(self.path)

    def busy(self, job: Job) -> bool:
        """Say whether a living process, of this study or of another on the same folder, works at a job."""
        lock = lock_of(self.job(job))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def found(self) -> dict[str, RunFolder]:
        """Return the run of each key: the newest finished one, else the newest with a checkpoint, else the newest."""
        best: dict[str, tuple[tuple[int, str], RunFolder]] = {}
        for file in self.runs.glob("*/*/config.json"):
            run = RunFolder(file.parent)
            if file not in self._keys:
                try:
                    held = run.config_tree()
                    # Checked anew, so that a knob that a plugin has got since then stands there with its default.
                    now = RunConfig.from_tree(held).to_tree()
                    self._keys[file] = key({**now, "plugins": held["plugins"]})
                except (UserError, KeyError):
                    continue  # not a run of ours, or damaged: the job makes a new one
            score = (rank(run), file.parent.name)
            if self._keys[file] not in best or score > best[self._keys[file]][0]:
                best[self._keys[file]] = (score, run)
        return {held: run for held, (_, run) in best.items()}

    def seconds(self, job: Job) -> float | None:
        """Return how long a job took, if it was done in one go."""
        file = self.path / "jobs" / job.key / "took.json"
        try:
            return json.loads(file.read_text())["seconds"]
        except (OSError, ValueError, KeyError):
            return None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}", "choose another --out") from None
    return folder


def lock_of(folder: Path) -> FileLock:
    """Return the lock of a job, not taken. The system frees it when its process ends, however it ends."""
    return FileLock(folder / "lock")


def rank(run: RunFolder) -> int:
    """Return 2 for a finished run, 1 for one that can go on, 0 for one without a checkpoint."""
    return 2 if run.status().get("state") == "finished" else int((run.path / "latest.json").is_file())


def measured(run: RunFolder, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the metrics of a run's best weights on the test split under some settings, None if not measured yet.

    Settings that the run has itself change nothing, and are not looked at: its own test is found under them too.
    """
    try:
        step, own = pointer(run)["step"], run.config_tree()
    except UserError:
        return None
    wanted = _changes(own, plain(settings))
    for file in sorted((run.path / "eval").glob(f"test@{step}*.json")):
        try:
            report = read_json(file)
        except UserError:
            continue
        if (report["step"], report["split"]) != (step, "test") or report.get("other_data"):
            continue
        if _changes(own, report["overrides"]) == wanted:
            # A value that is not finite is null in JSON, and still a measured one.
            return {name: math.nan if value is None else value for name, value in report["metrics"].items()}
    return None


def _changes(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that a run does not have already."""
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        held = own.get(name)
        if isinstance(value, Mapping) and isinstance(held, Mapping):
            # Beside the name of a plugin, which may be another, stand settings of that one.
            if inner := dict(value) if "name" in value else _changes(held, value):
                changes[name] = inner
        elif name not in own or held != value:
            changes[name] = value
    return changes


def complete(run: RunFolder | None, conditions: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a run is finished and measured under every condition."""
    return run is not None and rank(run) == 2 and all(measured(run, each) is not None for each in conditions)
