"""Several seeds of one run, each in a process of its own, side by side."""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.stats import summarise
from ssm_train.display import Display, figures
from ssm_train.errors import RunInterrupted, TrainingFailed
from ssm_train.interrupt import Interrupt, listening
from ssm_train.processes import Child, cores, gpus, work
from ssm_train.setup import check_out, task_of


class _Seed:
    """One seed's run, from its order to its end.

    Args:
        config: The run.
        root: Folder under which the run folders are made.
        scratch: Folder of order, answer and output of the process.
    """

    def __init__(self, config: RunConfig, root: Path, scratch: Path) -> None:
        self.config, self.root = config, root
        order = {"config": config.to_tree(), "out": str(root)}
        self.child = Child("ssm_train.seeds:child", scratch, order)
        self.older = self.folders()

    @property
    def name(self) -> str:
        return f"seed {self.config.seed}"

    @property
    def error(self) -> str:
        """Why it failed; empty while it runs and after a good end."""
        process = self.child.process
        if process and process.returncode == -signal.SIGTERM and not self.child.answer and self.run is None:
            return "not begun: the signal came before there was a run folder"
        return self.child.error

    @property
    def mistaken(self) -> bool:
        """Whether that was the user's input."""
        return self.child.answer.get("mistaken", False)

    def folders(self) -> set[Path]:
        task = self.config.task.short if self.config.task else "own-task"
        return set((self.root / task).glob(f"*-{self.config.label()}-{self.config.fingerprint()}*"))

    @property
    def run(self) -> Path | None:
        """The run folder, once the process has made it: a guess until the process has ended and said so."""
        if self.child.answer:
            return Path(self.child.answer["run"]) if "run" in self.child.answer else None
        return min(self.folders() - self.older, default=None)

    def figures(self) -> dict[str, float]:
        """Return the test metrics of a finished run."""
        if self.run is None or self.error:
            return {}
        return {row["name"]: row["value"] for row in RunFolder(self.run).metrics() if row["split"] == "test"}


class _Seeds:
    """Hands out the seeds, the first one first."""

    def __init__(self, every: Sequence[_Seed], display: Display) -> None:
        self.left, self.display = list(every), display

    def take(self) -> _Seed | None:
        return self.left.pop(0) if self.left else None

    def waiting(self) -> bool:
        return bool(self.left)

    def look(self, piece: _Seed) -> None:
        status = RunFolder(piece.run).status() if piece.run is not None else {}
        if "total" in status:
            rest = {name: v for name, v in status.items() if isinstance(v, float)}
            self.display.bar(piece.name, status["step"], status["total"], figures(rest))

    def done(self, piece: _Seed) -> None:
        self.display.say(f"{piece.name}: {piece.error or 'finished, test ' + figures(piece.figures())}")

    def stopping(self, name: str) -> None:
        self.display.say(f"{name}: every seed that has begun saves its state and stops")


def fit_seeds(
    config: RunConfig,
    seeds: Sequence[int],
    *,
    out: Path | str = "runs",
    workers: int = 0,
    quiet: bool = False,
) -> list[Path]:
    """Train one run a seed.

    Args:
        config: The run; its seed is replaced.
        seeds: The seeds.
        out: Folder under which the run folders are made.
        workers: Processes at once; 0 is one a GPU, or one a core.
        quiet: Print nothing.

    Returns:
        The run folders, in the order of the seeds.

    Raises:
        UserError: If the configuration cannot work with any of the seeds.
        TrainingFailed: If some of them stopped early, the others being finished first; or after SIGINT, SIGTERM or
            SIGHUP, all being saved first.
    """
    devices = gpus() if config.train.device != "cpu" else []
    workers = min(workers or len(devices) or cores(), len(seeds))
    threads = config.train.threads or (0 if devices else max(1, cores() // workers))
    config = replace(config, train=replace(config.train, threads=threads))
    check_out(out)
    with Display(quiet) as display, tempfile.TemporaryDirectory(prefix="ssm-seeds-") as scratch:
        if config.task is not None:  # once, here, rather than by whichever child comes first
            task_of(config).prepare(display.progress)
        every = [
            _Seed(replace(config, seed=seed), Path(out).absolute(), Path(scratch, str(seed)))
            for seed in seeds
        ]
        with listening() as interrupt:
            work(_Seeds(every, display), workers, devices, interrupt)
        _report(every, config, display)
    _complain(every, interrupt)
    return [item.run for item in every if item.run is not None]


def child(order: str, answer: str) -> None:
    """Train one seed; the entry of a child process."""
    from ssm_train.training import fit

    task = json.loads(Path(order).read_text())
    found: dict[str, object]
    try:
        found = {"run": str(fit(RunConfig.from_tree(task["config"]), out=task["out"], quiet=True))}
    except TrainingFailed as error:
        found = {"error": str(error), "run": str(error.run)}
    except UserError as error:
        found = {"error": str(error), "mistaken": True}
    Path(answer).write_text(json.dumps(found))
    sys.exit("error" in found)


def _report(every: Sequence[_Seed], config: RunConfig, display: Display) -> None:
    rows = [found for item in every if (found := item.figures())]
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        left_out = f" ({len(rows) - len(values)} not finite)" if len(values) < len(rows) else ""
        text = summarise(values) if values else "none is finite"
        display.say(f"test {name} over {len(rows)} seeds of {config.label()}{left_out}: {text}")


def _complain(every: Sequence[_Seed], interrupt: Interrupt) -> None:
    failed = [item for item in every if item.error or item.child.process is None]
    if not failed:
        return
    if all(item.mistaken for item in every):
        raise UserError(every[0].error)
    lines = [f"{item.name}: {item.error or 'not started'}" for item in failed]
    why = f"interrupted by {interrupt.name}" if interrupt else "stopped early"
    message = f"{len(failed)} of {len(every)} seeds {why}:\n  " + "\n  ".join(lines)
    ending = RunInterrupted if interrupt else TrainingFailed
    raise ending(message, *(item.run for item in every if item.run is not None))
