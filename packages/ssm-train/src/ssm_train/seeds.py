"""Several seeds of one run, each in a process of its own, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.stats import summarise
from ssm_train.display import Display, figures
from ssm_train.errors import TrainingFailed

_CHILD = "import sys; from ssm_train.seeds import child; child(sys.argv[1], sys.argv[2])"


@dataclass
class _Seed:
    seed: int
    process: subprocess.Popen[str] | None = None
    run: Path | None = None
    error: str = ""


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
        TrainingFailed: If any of them stopped early; the others are finished first.
    """
    from ssm_core.plugin import registry

    waiting = [_Seed(seed) for seed in seeds]
    every = list(waiting)
    gpus = torch.cuda.device_count() if config.train.device != "cpu" else 0
    workers = workers or gpus or min(len(seeds), os.cpu_count() or 1)
    threads = config.train.threads or (0 if gpus else max(1, (os.cpu_count() or 1) // workers))
    config = replace(config, train=replace(config.train, threads=threads))
    running: list[tuple[_Seed, int]] = []
    with Display(quiet) as display, tempfile.TemporaryDirectory(prefix="ssm-seeds-") as scratch:
        if config.task is not None:  # once, here, rather than by whichever child comes first
            registry.builder("task", config.task.name)[1](config.task.config).prepare(display.progress)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    slot = min(set(range(workers)) - {place for _, place in running})
                    item = waiting.pop(0)
                    _start(
                        item,
                        replace(config, seed=item.seed),
                        Path(out),
                        Path(scratch),
                        slot if gpus else None,
                    )
                    running.append((item, slot))
                running = [
                    (item, place) for item, place in running if not _ended(item, Path(scratch), display)
                ]
                time.sleep(0.2)
        finally:
            for item, _ in running:
                if item.process is not None:
                    item.process.terminate()  # each saves a checkpoint on its way out
                    item.process.wait()
        _report(every, config, display)
    failed = [item for item in every if item.error]
    if failed:
        lines = "\n  ".join(f"seed {item.seed}: {item.error}" for item in failed)
        raise TrainingFailed(f"{len(failed)} of {len(every)} seeds stopped early:\n  {lines}", Path(out))
    return [item.run for item in every if item.run is not None]


def child(order: str, answer: str) -> None:
    """Train one seed; the entry of a child process."""
    from ssm_core.plugin.errors import UserError
    from ssm_train.training import fit

    task = json.loads(Path(order).read_text())
    try:
        run = fit(RunConfig.from_tree(task["config"]), out=task["out"], quiet=True)
        Path(answer).write_text(json.dumps({"run": str(run)}))
    except (TrainingFailed, UserError) as error:
        Path(answer).write_text(json.dumps({"error": str(error)}))
        sys.exit(1)


def _start(item: _Seed, config: RunConfig, out: Path, scratch: Path, gpu: int | None) -> None:
    order = scratch / f"{item.seed}.order.json"
    order.write_text(json.dumps({"config": config.to_tree(), "out": str(out.absolute())}))
    answer = scratch / f"{item.seed}.answer.json"
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    log = (scratch / f"{item.seed}.log").open("w")
    item.process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(order), str(answer)],
        stdout=log,
        stderr=log,
        text=True,
        env=environment,
    )
    log.close()


def _ended(item: _Seed, scratch: Path, display: Display) -> bool:
    """Move the seed's bar; take its answer once its process is gone."""
    assert item.process is not None
    code = item.process.poll()
    if code is None:
        return False
    answer = scratch / f"{item.seed}.answer.json"
    found = json.loads(answer.read_text()) if answer.is_file() else {}
    if "run" in found:
        item.run = Path(found["run"])
        status = RunFolder(item.run).status()
        display.say(
            f"seed {item.seed}: finished after {status.get('step')} steps: {figures(_test_metrics(item.run))}"
        )
    else:
        tail = (scratch / f"{item.seed}.log").read_text().strip().splitlines()[-1:]
        item.error = found.get("error") or f"ended with status {code}: {' '.join(tail)}"
        display.say(f"seed {item.seed}: {item.error}")
    return True


def _test_metrics(run: Path) -> dict[str, float]:
    return {row["name"]: row["value"] for row in RunFolder(run).metrics() if row["split"] == "test"}


def _report(items: Sequence[_Seed], config: RunConfig, display: Display) -> None:
    rows = [_test_metrics(item.run) for item in items if item.run is not None]
    names = rows[0].keys() if rows else ()
    for name in names:
        summary = summarise([row[name] for row in rows])
        display.say(f"test {name} over {len(rows)} seeds of {config.label()}: {summary}")
