"""Checkpoints appear whole or not at all."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, read_json
from ssm_train import checkpoint as checkpoints
from ssm_train.checkpoint import Checkpoint, load, load_latest, pointer, save, write_pointers


def make(step: int, state: dict | None = None) -> Checkpoint:
    value = torch.full((50, 50), float(step))
    model, moments = {"w": value, "tied": value}, {"exp_avg/w": -value}
    return Checkpoint(step, model, moments, {"0/torch": torch.zeros(4)}, state or {})


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path, RunConfig(backbone=None))


def write(run, step, value=None, best=None, keep=2):
    """Save a step; ``best`` is the step of the best checkpoint so far."""
    state = {"latest": pointer(run, step, "mse", value), "best": best and pointer(run, best, "mse", value)}
    return save(run, make(step, state), keep=keep)


def test_round_trip(run):
    found = load(write(run, 4))
    assert found.step == 4
    assert found.state["latest"]["step"] == 4
    assert torch.equal(found.model["tied"], make(4).model["w"])
    assert torch.equal(found.optimizer["exp_avg/w"], make(4).optimizer["exp_avg/w"])


def test_no_pickle_in_a_checkpoint(run):
    assert {file.suffix for file in write(run, 1).iterdir()} == {".safetensors", ".json"}


def test_keeps_latest_and_best_and_nothing_else(run):
    for step in range(1, 7):
        write(run, step, value=float(step), best=2 if step > 1 else 1)
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-00000002", "step-00000005", "step-00000006"]
    assert run.checkpoint("best").name == "step-00000002"
    assert read_json(run.path / "latest.json") == {
        "step": 6,
        "path": "checkpoints/step-00000006",
        "metric": "mse",
        "value": 6.0,
    }


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_damage_is_noticed_and_the_one_before_is_used(run, damage):
    write(run, 1)
    file = write(run, 2) / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[-1] ^= 1
        file.write_bytes(data[:-9] if damage == "cut" else data)
    found, notices = load_latest(run)
    assert found.step == 1
    assert "step-00000002" in notices[0]


def test_a_damaged_newest_does_not_crowd_out_the_one_just_written(run):
    write(run, 10)
    (write(run, 20) / "model.safetensors").unlink()
    assert load_latest(run)[0].step == 10
    write(run, 11, keep=1)
    assert load_latest(run)[0].step == 11
    assert run.checkpoint("latest").name == "step-00000011"


def test_writing_a_step_again_replaces_it(run):
    write(run, 1)
    assert write(run, 1, value=2.0).is_dir()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_no_intact_checkpoint_is_an_error(run):
    (write(run, 1) / "state.json").unlink()
    with pytest.raises(UserError, match="no intact checkpoint"):
        load_latest(run)


def test_full_disk_loses_nothing(run, monkeypatch):
    write(run, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match=r"(?s)step 2.*No space left.*earlier checkpoints stand"):
        write(run, 2)
    assert load_latest(run)[0].step == 1
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000001"]


def test_a_full_disk_at_the_first_checkpoint_promises_no_resume(run, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match=r"(?s)step 2.*none was saved before it.*--config") as told:
        write(run, 2)
    assert "--resume" not in str(told.value)


def test_the_best_of_every_checkpoint_that_is_kept_is_kept(run):
    for step in (1, 2, 3):
        write(run, step, best=1)
    write(run, 4, best=4)
    names = [path.name for path in sorted(run.checkpoints.iterdir())]
    assert names == ["step-00000001", "step-00000003", "step-00000004"]
    write(run, 5, best=4)
    assert [path.name[-1] for path in sorted(run.checkpoints.iterdir())] == ["4", "5"]


def test_whose_checkpoints_were_deleted_is_told_so(run):
    with pytest.raises(UserError, match="ended before the first one was saved"):
        load_latest(run)
    shutil.rmtree(write(run, 1))
    with pytest.raises(UserError, match=r"no longer in .*checkpoints: put one back"):
        load_latest(run)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_checkpoint_may_be_read_by_whom_the_umask_lets(run, mask):
    before = os.umask(mask)
    try:
        files = list(write(run, 1).iterdir())
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}


def test_a_file_that_cannot_be_read_is_named(run, monkeypatch):
    write(run, 1)

    def refused(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints, "_sha256", refused)
    with pytest.raises(UserError, match=r"cannot read .*model\.safetensors: Permission denied"):
        load(run.checkpoint("latest"))


WRITER = """
import os, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from test_checkpoint import RunFolder, write

def write_for_ever(step):
    run = RunFolder(sys.argv[1])
    while True:
        step += 1
        write(run, step, best=step - step % 3)

for line in sys.stdin:  # one forked writer a line: imports are paid once
    child = os.fork() or write_for_ever(int(line))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_killed_at_random_moments_a_checkpoint_always_loads(run):
    write(run, 3, best=3)
    draw, reached = random.Random(0), 3
    command = [sys.executable, "-c", WRITER, str(run.path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        for _ in range(40):
            parent.stdin.write(f"{reached}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(draw.uniform(0.0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            found, notices = load_latest(run)
            assert found.step >= reached
            assert notices == []
            assert torch.equal(found.model["w"], make(found.step).model["w"])
            for which in ("best", "latest"):
                load(run.checkpoint(which))
            write_pointers(run, found.state)  # what resuming does
            assert read_json(run.path / "best.json")["step"] == found.step - found.step % 3
            assert read_json(run.path / "latest.json")["step"] == found.step
            load(run.checkpoint("best"))
            reached = found.step
        parent.stdin.close()
    assert reached > 6  # it did get to write between the kills
