"""A training with workers is interrupted or killed: what can be is saved, and no process is left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from toy_runs import Toy, module, settings

from ssm_core.run.folder import RunFolder
from ssm_train import TrainingFailed, fit

# A machine of one core runs two workers as well, and torch says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Slow(Toy):
    """Takes its time."""

    def run(self, model, batch, state=None):
        time.sleep(0.02)
        return super().run(model, batch, state)


def trains(out: str, told: Connection) -> None:
    """Train as a process of its own, in a group of its own, as a terminal starts a command."""
    os.setsid()
    try:
        fit(settings(epochs=1000, workers=2), Slow(), module(), out=out, quiet=True)
    except TrainingFailed as failure:
        told.send(str(failure))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that are there."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Say whether a process is there, and not just its entry in the table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes the way Linux shows them"
)
@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_saves_the_run_and_leaves_no_process(tmp_path, number):
    system = multiprocessing.get_context("fork")  # a copy has its libraries loaded
    told, telling = system.Pipe(duplex=False)
    training = system.Process(target=trains, args=(str(tmp_path), telling))
    training.start()
    try:
        assert until(lambda: any(tmp_path.glob("own-task/*/metrics.jsonl")), 60)
        assert until(lambda: len(children(training.pid)) == 2, 60)
        workers = children(training.pid)
        # Ctrl-C in a terminal goes to every process of the group; a kill does not.
        (os.kill if number == signal.SIGKILL else os.killpg)(training.pid, number)
        training.join(60)
        code = training.exitcode
    finally:
        training.kill()
        training.join()
    # Workers whose parent was killed look for it every five seconds.
    assert until(lambda: not any(map(alive, workers)), 20 if number == signal.SIGKILL else 0.5)
    if number == signal.SIGKILL:
        assert code == -number
        return
    assert code == 0
    assert f"interrupted by {number.name} after step" in told.recv()
    (run,) = tmp_path.glob("own-task/*")
    status = RunFolder(run).status()
    assert status["state"] == "interrupted"
    assert json.loads((run / "latest.json").read_text())["step"] == status["step"] > 0
