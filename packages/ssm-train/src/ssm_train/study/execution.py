"""Running a study: its jobs in processes side by side, what is done already left alone, a report after each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssm_core.run.folder import RunFolder
from ssm_train.display import Display, figures
from ssm_train.interrupt import listening
from ssm_train.processes import Child, cores, gpus, work
from ssm_train.study.folder import StudyFolder, complete
from ssm_train.study.left import duration, expected
from ssm_train.study.plan import Job, Plan, key

PATIENCE = 2.0
"""Seconds between two looks at what takes a look at the disk: jobs of other processes, the time left."""


@dataclass
class Outcome:
    """How the running of a study ended.

    Attributes:
        failed: Name of each job that failed -> why, and where its log is.
        interrupted: The signal that stopped it; empty if it came to its end.
    """

    failed: dict[str, str] = field(default_factory=dict)
    interrupted: str = ""


class _Work:
    """A job with the process that does it."""

    def __init__(self, job: Job, child: Child) -> None:
        self.job, self.child = job, child
        self.began = time.monotonic()


class _Study:
    """Hands out the jobs of a study that are not done."""

    def __init__(
        self,
        plan: Plan,
        folder: StudyFolder,
        display: Display,
        make: Callable[[Job], Child],
        told: Callable[[], object],
    ) -> None:
        self.plan, self.folder, self.display, self.make, self.told = plan, folder, display, make, told
        self.jobs = plan.jobs()
        self.left = undone(plan, folder)
        self.outcome, self.running = Outcome(), dict[str, _Work]()
        self.elsewhere: dict[str, float] = {}
        self.seen: dict[str, RunFolder] = {}
        self.looked = -PATIENCE

    def take(self) -> _Work | None:
        """Return the first job that nobody works at; those that others have are looked at again later."""
        for job in list(self.left):
            if time.monotonic() - self.elsewhere.get(job.key, -PATIENCE) < PATIENCE:
                continue
            if self.folder.busy(job):
                self.elsewhere[job.key] = time.monotonic()
                continue
            self.left.remove(job)
            if not undone(self.plan, self.folder, [job]):  # another process has done it meanwhile
                self.told()
                continue
            self.running[job.key] = _Work(job, self.make(job))
            return self.running[job.key]
        return None

    def waiting(self) -> bool:
        return bool(self.left)

    def look(self, piece: _Work) -> None:
        """Move the bar of a running job, and that of all."""
        name = piece.job.name
        if time.monotonic() - self.looked > PATIENCE:
            self.looked = time.monotonic()
            found = self.folder.found()
            keys = {work.job.name: key(work.job.config.to_tree()) for work in self.running.values()}
            self.seen = {name: found[held] for name, held in keys.items() if held in found}
            self.show()
        status = self.seen[name].status() if name in self.seen else {}
        if "total" in status:
            rest = {metric: value for metric, value in status.items() if isinstance(value, float)}
            self.display.bar(name, status["step"], status["total"], figures(rest))

    def show(self) -> None:
        """Move the bar of all jobs."""
        done = len(self.jobs) - len(self.left) - len(self.running)
        elapsed = {k: time.monotonic() - work.began for k, work in self.running.items()}
        left = expected(
            self.folder, self.jobs, [*self.left, *(w.job for w in self.running.values())], elapsed
        )
        note = "" if left is None else f"about {duration(left / max(1, len(self.running)))} left"
        self.display.bar(f"study {self.plan.study.name}", done, len(self.jobs), note)

    def done(self, piece: _Work) -> None:
        """Take note of how a job ended."""
        del self.running[piece.job.key]
        self.display.drop(piece.job.name)
        if piece.child.answer.get("busy"):  # another process was quicker by a moment
            self.elsewhere[piece.job.key] = time.monotonic()
            self.left.append(piece.job)
            return
        if piece.child.error and not self.outcome.interrupted:
            self.outcome.failed[piece.job.name] = f"{piece.child.error}\n  its log: {piece.child.log}"
        took = duration(time.monotonic() - piece.began)
        error = piece.child.error if piece.child.answer.get("interrupted") else f"failed: {piece.child.error}"
        said = error if piece.child.error else f"done in {took}"
        self.display.say(f"{piece.job.name}: {said}")
        self.told()

    def stopping(self, name: str) -> None:
        """Say that all is being saved."""
        self.outcome.interrupted = name
        self.display.say(f"{name}: every run saves its state and stops")


def undone(plan: Plan, folder: StudyFolder, jobs: Sequence[Job] | None = None) -> list[Job]:
    """Return those jobs, of all or of some, that are not finished and measured under every condition."""
    found = folder.found()
    conditions = [condition.settings for condition in plan.study.tests]
    return [
        job
        for job in (plan.jobs() if jobs is None else jobs)
        if not complete(found.get(key(job.config.to_tree())), conditions)
    ]


def execute(
    plan: Plan,
    folder: StudyFolder,
    *,
    workers: int = 0,
    quiet: bool = False,
    told: Callable[[], object] = lambda: None,
) -> Outcome:
    """Do what is left of a study.

    Args:
        plan: What to run.
        folder: Where.
        workers: Processes at once; 0 is one a GPU, or one a core.
        quiet: Print nothing.
        told: Called after each job.

    Returns:
        What failed; the jobs after it were done all the same.

    Raises:
        UserError: If the folder cannot be written.
    """
    jobs = plan.jobs()
    devices = gpus() if any(job.config.train.device != "cpu" for job in jobs) else []
    with Display(quiet) as display, tempfile.TemporaryDirectory(prefix="ssm-study-") as scratch:

        def make(job: Job) -> Child:
            order = _order(plan, folder, job, own_threads=not devices)
            home = folder.job(job)
            environment = {"OMP_NUM_THREADS": str(order["config"]["train"]["threads"])} if not devices else {}
            return Child(
                "ssm_train.study.child:main",
                Path(scratch, f"{job.key}-{time.monotonic_ns()}"),
                order,
                log=home / "log",
                environment=environment,
            )

        foreman = _Study(plan, folder, display, make, told)
        display.say(_announce(foreman, folder))
        with listening() as interrupt:
            work(foreman, workers or len(devices) or cores(), devices, interrupt)
    return foreman.outcome


def _order(plan: Plan, folder: StudyFolder, job: Job, *, own_threads: bool) -> dict[str, Any]:
    config = job.config
    if own_threads and not config.train.threads:
        # Processes side by side would otherwise get in each other's way.
        config = replace(config, train=replace(config.train, threads=1))
    return {
        "study": str(folder.path),
        "job": str(folder.job(job)),
        "config": config.to_tree(),
        "conditions": [condition.settings for condition in plan.study.tests],
    }


def _announce(foreman: _Study, folder: StudyFolder) -> str:
    total, left = len(foreman.jobs), len(foreman.left)
    cells = len(foreman.plan.chosen)
    text = f"study {foreman.plan.study.name}: {cells} cells, {total} runs, {total - left} done, {left} to do"
    return f"{text} in {folder.path}"
