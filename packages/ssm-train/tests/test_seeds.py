"""Several seeds side by side: their folders, failures, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_train import TrainingFailed, fit_seeds, processes, resume
from ssm_train.batches import BatchPlan

pytestmark = pytest.mark.usefixtures("installed")


def tree(train=None, **task):
    return {
        "backbone": {"name": "s5", "state_size": 4, "blocks": 1},
        "task": {"name": "toy", **task},
        "model": {"d_model": 4, "n_layers": 1},
        "train": {"batch_size": 4, "device": "cpu", "threads": 1, "epochs": 1, **(train or {})},
    }


def test_each_seed_has_its_run_in_order_and_a_failed_one_hides_no_other(tmp_path, capfd):
    config = RunConfig.from_tree(tree({"steps": 2}))
    first = {
        n: {row for step in (0, 1) for row in BatchPlan.of(40, config.train, n).indices(step)}
        for n in (2, 1, 0)
    }
    poison = min(first[1] - first[2] - first[0])
    with pytest.raises(TrainingFailed, match=r"1 of 3 seeds stopped early:\n  seed 1: step \d") as failure:
        fit_seeds(RunConfig.from_tree(tree({"steps": 2}, poison=poison)), list(first), out=tmp_path / "runs")
    assert f"row {poison} of the training split" in str(failure.value)
    runs = [RunFolder(run) for run in failure.value.runs]
    assert [run.config().seed for run in runs] == [2, 1, 0]
    assert [run.status()["state"] for run in runs] == ["finished", "failed", "finished"]
    values = [row["value"] for run in runs for row in run.metrics() if row["split"] == "test"]
    assert len(set(values)) == len(values) > 2
    said = capfd.readouterr().err
    assert "seed 2: finished, test" in said
    assert "test mse over 2 seeds of s5: " in said


def test_what_no_seed_can_do_is_the_users_error(tmp_path):
    config = RunConfig.from_tree(tree({"batch_size": 64}))
    with pytest.raises(UserError, match=r"fewer than train\.batch_size = 64"):
        fit_seeds(config, [0, 1], out=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_saves_every_seed(tmp_path):
    order = tree({"epochs": 50}, pause=0.02)
    script = (
        "import json, sys; from ssm_core.run.config import RunConfig; from ssm_train import fit_seeds, TrainingFailed\n"
        "try: fit_seeds(RunConfig.from_tree(json.loads(sys.argv[1])), [0, 1], out=sys.argv[2], quiet=True)\n"
        "except TrainingFailed as error: print(error); print(*error.runs, sep='\\n')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(order), str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while sum(1 for _ in (tmp_path / "runs").glob("toy/*/metrics.jsonl")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGINT)  # as the terminal does on Ctrl-C
    said, _ = parent.communicate(timeout=60)
    assert "2 of 2 seeds interrupted by SIGINT" in said
    runs = [Path(line) for line in said.splitlines()[-2:]]
    for run in runs:
        status = RunFolder(run).status()
        assert status["state"] == "interrupted"
        assert json.loads((run / "latest.json").read_text())["step"] == status["step"] > 0
    step = RunFolder(runs[0]).status()["step"]
    resume(runs[0], {"steps": step + 2}, quiet=True)
    assert RunFolder(runs[0]).status() | {"heartbeat": ""} == {
        "state": "finished",
        "heartbeat": "",
        "step": step + 2,
        "total": step + 2,
    }


def test_hidden_gpus_stay_hidden(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert processes.gpus() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert processes.gpus() == ["0", "1"]
