"""Signals beside Ctrl-C: a terminal that closes, a parent that is gone, a stop before anything has begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_workers_signals import alive, children, until

from ssm_core.run.config import RunConfig
from ssm_train import TrainingFailed, fit_seeds
from ssm_train.interrupt import listening
from ssm_train.seeds import _Seed

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes the way Linux shows them"
)

TREE = {
    "backbone": {"name": "s5", "state_size": 4, "blocks": 1},
    "task": {"name": "toy"},
    "model": {"d_model": 4, "n_layers": 1},
    "train": {"batch_size": 4, "device": "cpu", "epochs": 1},
}


def ours(path: Path) -> dict[str, str]:
    """Return an environment in which a folder's modules are found, beside all that is found here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(Path(__file__).parent), *sys.path])}


def said(pid: int) -> str:
    """Return a process's command line, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_terminal_that_closes_stops_a_run_once():
    with listening() as flag:
        os.kill(os.getpid(), signal.SIGHUP)
        assert flag.name == "SIGHUP"
        os.kill(os.getpid(), signal.SIGHUP)  # the shell and the system send one each
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag
    finally:
        signal.signal(signal.SIGHUP, before)


PARENT = """
import os, sys
from pathlib import Path
from ssm_train.processes import Child
child = Child("waits:main", Path(sys.argv[1]), {})
child.start({})
print(child.process.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_a_child_whose_parent_is_gone_is_stopped(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import time\nfrom pathlib import Path\nfrom ssm_train.interrupt import listening\n"
        "def main(order, answer):\n"
        "    with listening() as flag:\n"
        "        Path(order).with_name('begun').touch()\n"
        "        while not flag:\n"
        "            time.sleep(0.05)\n"
        "        Path(answer).write_text(flag.name)\n"
    )
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ours(tmp_path)
    ) as parent:
        pid = int(parent.stdout.readline())
        try:
            assert until((tmp_path / "child" / "begun").exists, 60)
            time.sleep(1.5)
            assert alive(pid)
            parent.kill()
            assert until(lambda: not alive(pid), 30)
        finally:
            parent.kill()
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    assert (tmp_path / "child" / "answer.json").read_text() == "SIGHUP"


SEEDS = """
import json, sys
from ssm_core.run.config import RunConfig
from ssm_train import TrainingFailed, fit_seeds
try:
    fit_seeds(RunConfig.from_tree(json.loads(sys.argv[1])), [0, 1], workers=1, out=sys.argv[2], quiet=True)
except TrainingFailed as error:
    print(error, error.runs)
"""


@pytest.mark.usefixtures("installed")
def test_seeds_that_had_not_begun_are_told_so(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SEEDS, json.dumps(TREE), str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert until(lambda: any("ssm_train.seeds" in said(child) for child in children(parent.pid)), 60)
        parent.send_signal(signal.SIGTERM)  # the child is importing
        told, _ = parent.communicate(timeout=60)
    assert "2 of 2 seeds interrupted by SIGTERM" in told
    assert "seed 0: not begun: the signal came before there was a run folder" in told
    assert "seed 1: not started" in told
    assert told.strip().endswith("()")


@pytest.mark.usefixtures("installed")
def test_a_seed_says_itself_where_its_run_is(tmp_path):
    config = RunConfig.from_tree(TREE)
    seed = _Seed(config, tmp_path, tmp_path / "scratch")
    names = [f"{n}-{config.label()}-{config.fingerprint()}" for n in (1, 2)]
    for name in names:  # another process trains the same
        (tmp_path / "toy" / name).mkdir(parents=True)
    assert seed.run == tmp_path / "toy" / names[0]
    seed.child.answer = {"run": str(tmp_path / "toy" / names[1])}
    assert seed.run == tmp_path / "toy" / names[1]
    seed.child.answer = {"error": "no such thing", "mistaken": True}
    assert seed.run is None


@pytest.mark.usefixtures("installed")
def test_seeds_share_the_cores_that_they_may_use(tmp_path, monkeypatch):
    seen = []

    def work(foreman, workers, devices, interrupt):
        seen.append((workers, foreman.left[0].config.train.threads))

    monkeypatch.setattr("ssm_train.seeds.work", work)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    for seeds in ([0, 1], range(20)):
        with pytest.raises(TrainingFailed, match="not started"):
            fit_seeds(RunConfig.from_tree(TREE), seeds, out=tmp_path, quiet=True)
    assert seen == [(2, 3), (6, 1)]
