"""Several seeds of one run, each in a process of its own, side by side."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.stats import summarise
from ssm_train.display import Display, figures
from ssm_train.errors import TrainingFailed
from ssm_train.interrupt import Interrupt, listening
from ssm_train.setup import task_of

_CHILD = "import sys; from ssm_train.seeds import child; child(sys.argv[1], sys.argv[2])"


@dataclass
class _Seed:
    """One seed's run, from its order to its end.

    Attributes:
        config: The run.
        root: Folder under which the run folders are made.
        scratch: Folder of order, answer and output of the process.
        older: Run folders of the same configuration that were there before.
        process: The process, once started.
        error: Why it failed; empty while it runs and after a good end.
        mistaken: Whether that was the user's input.
    """

    config: RunConfig
    root: Path
    scratch: Path
    older: set[Path] = field(default_factory=set)
    process: subprocess.Popen[bytes] | None = None
    error: str = ""
    mistaken: bool = False

    @property
    def name(self) -> str:
        return f"seed {self.config.seed}"

    def folders(self) -> set[Path]:
        task = self.config.task.short if self.config.task else "own-task"
        return set((self.root / task).glob(f"*-{self.config.label()}-{self.config.fingerprint()}*"))

    @property
    def run(self) -> Path | None:
        """The run folder, once the process has made it."""
        return min(self.folders() - self.older, default=None)

    def start(self, environment: dict[str, str]) -> None:
        self.older = self.folders()
        self.scratch.mkdir()
        order, answer = self.scratch / "order.json", self.scratch / "answer.json"
        order.write_text(json.dumps({"config": self.config.to_tree(), "out": str(self.root)}))
        with (self.scratch / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(order), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                # A session of its own: Ctrl-C in the terminal reaches the parent alone, which passes it on once.
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Take the answer once the process is gone."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        answer = self.scratch / "answer.json"
        found = json.loads(answer.read_text()) if answer.is_file() else {}
        if "run" not in found:
            output = (self.scratch / "output").read_text(errors="replace").strip().splitlines()[-5:]
            self.error = found.get("error") or "\n  ".join([f"ended with status {code}", *output])
            self.mistaken = found.get("mistaken", False)
        return True

    def figures(self) -> dict[str, float]:
        """Return the test metrics of a finished run."""
        if self.run is None or self.error:
            return {}
        return {row["name"]: row["value"] for row in RunFolder(self.run).metrics() if row["split"] == "test"}


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
        TrainingFailed: If some of them stopped early, the others being finished first; or after SIGINT or SIGTERM, all
            being saved first.
    """
    gpus = _gpus() if config.train.device != "cpu" else []
    cores = os.cpu_count() or 1
    workers = min(workers or len(gpus) or cores, len(seeds))
    threads = config.train.threads or (0 if gpus else max(1, cores // workers))
    config = replace(config, train=replace(config.train, threads=threads))
    with Display(quiet) as display, tempfile.TemporaryDirectory(prefix="ssm-seeds-") as scratch:
        if config.task is not None:  # once, here, rather than by whichever child comes first
            task_of(config).prepare(display.progress)
        every = [
            _Seed(replace(config, seed=seed), Path(out).absolute(), Path(scratch, str(seed)))
            for seed in seeds
        ]
        with listening() as interrupt:
            _work(every, workers, gpus, interrupt, display)
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
    except (TrainingFailed, UserError) as error:
        found = {"error": str(error), "mistaken": isinstance(error, UserError)}
    Path(answer).write_text(json.dumps(found))
    sys.exit("error" in found)


def _gpus() -> list[str]:
    """Return what names each GPU in ``CUDA_VISIBLE_DEVICES``, those it hides left out."""
    count = torch.cuda.device_count()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in shown.split(",")][:count] if shown else [str(i) for i in range(count)]


def _work(
    every: Sequence[_Seed], workers: int, gpus: Sequence[str], interrupt: Interrupt, display: Display
) -> None:
    """Keep ``workers`` processes busy until all seeds are done, or a signal has been passed on and answered."""
    waiting, running, passed_on = list(every), dict[int, _Seed](), False
    try:
        while running or (waiting and not interrupt):
            for slot in set(range(workers)) - running.keys() if not interrupt else ():
                if waiting:
                    running[slot] = waiting.pop(0)
                    running[slot].start({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
            if interrupt and not passed_on:
                passed_on = True
                display.say(f"{interrupt.name}: every seed saves its state and stops")
                for item in running.values():
                    _signal(item, signal.SIGTERM)
            for slot, item in list(running.items()):
                _show(item, display)
                if item.ended():
                    del running[slot]
                    display.say(f"{item.name}: {item.error or 'finished, test ' + figures(item.figures())}")
            time.sleep(0.2)
    finally:
        for item in running.values():  # a second signal, or an error here: none is left behind
            _signal(item, signal.SIGKILL)


def _signal(item: _Seed, number: signal.Signals) -> None:
    assert item.process is not None
    if item.process.poll() is None:
        item.process.send_signal(number)


def _show(item: _Seed, display: Display) -> None:
    status = RunFolder(item.run).status() if item.run is not None else {}
    if "total" in status:
        rest = {name: v for name, v in status.items() if isinstance(v, float)}
        display.bar(item.name, status["step"], status["total"], figures(rest))


def _report(every: Sequence[_Seed], config: RunConfig, display: Display) -> None:
    rows = [found for item in every if (found := item.figures())]
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        left_out = f" ({len(rows) - len(values)} not finite)" if len(values) < len(rows) else ""
        text = summarise(values) if values else "none is finite"
        display.say(f"test {name} over {len(rows)} seeds of {config.label()}{left_out}: {text}")


def _complain(every: Sequence[_Seed], interrupt: Interrupt) -> None:
    failed = [item for item in every if item.error or item.process is None]
    if not failed:
        return
    if all(item.mistaken for item in every):
        raise UserError(every[0].error)
    lines = [f"{item.name}: {item.error or 'not started'}" for item in failed]
    why = f"interrupted by {interrupt.name}" if interrupt else "stopped early"
    message = f"{len(failed)} of {len(every)} seeds {why}:\n  " + "\n  ".join(lines)
    raise TrainingFailed(message, *(item.run for item in every if item.run is not None))
