"""A training with workers is interrupted or killed: what can be is saved, and no process is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_runs import Toy

from ssm_core.run.folder import RunFolder

# A machine of one core runs two workers as well, and torch says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Slow(Toy):
    """Takes its time."""

    def run(self, model, batch, state=None):
        time.sleep(0.02)
        return super().run(model, batch, state)


TRAINS = """
import sys
from test_workers_signals import Slow
from toy_runs import module, settings
from ssm_train import TrainingFailed, fit
try:
    fit(settings(epochs=1000, workers=2), Slow(), module(), out=sys.argv[1], quiet=True)
except TrainingFailed as failure:
    print(failure)
"""


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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_saves_the_run_and_leaves_no_process(tmp_path, number):
    # A process of its own, not a copy of this one, whose autograd may have threads; in a group of its own, as a
    # terminal starts a command.
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert until(lambda: any(tmp_path.glob("own-task/*/metrics.jsonl")), 60)
        assert until(lambda: len(children(training.pid)) == 2, 60)
        workers = children(training.pid)
        # Ctrl-C in a terminal goes to every process of the group; a kill does not.
        (os.kill if number == signal.SIGKILL else os.killpg)(training.pid, number)
        said, _ = training.communicate(timeout=60)
    finally:
        training.kill()
        training.communicate()
    # Workers whose parent was killed look for it every five seconds.
    assert until(lambda: not any(map(alive, workers)), 20 if number == signal.SIGKILL else 0.5)
    if number == signal.SIGKILL:
        assert training.returncode == -number
        return
    assert training.returncode == 0
    assert f"interrupted by {number.name} after step" in said
    (run,) = tmp_path.glob("own-task/*")
    status = RunFolder(run).status()
    assert status["state"] == "interrupted"
    assert json.loads((run / "latest.json").read_text())["step"] == status["step"] > 0
