"""The first command on a small pendulum, through the real command line: train, evaluate, compare, resume, seeds."""

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
from safetensors.torch import load_file

from ssm_core import load
from ssm_core.run.folder import RunFolder

SMALL = [f"task.n_{split}={rows}" for split, rows in (("train", 64), ("validation", 24), ("test", 24))]
TRAIN = ["train", "--backbone", "s5", "--addon", "smr", "--task", "pendulum", "--device", "cpu"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("pendulum")


def ssm(home, *words, sets=SMALL, **options):
    extra = [part for item in sets for part in ("--set", item)]
    environment = os.environ | {"SSM_DATA_DIR": str(home / "data"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ssm_lab", *words, *extra]
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run(command, cwd=home, env=environment, **options)


def trained(home, *words):
    done = ssm(home, *TRAIN, *words)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def run(home):
    (path,), _ = trained(home, "--epochs", "2")
    return path


def test_says_what_it_did_and_ends_with_the_folder(home, run):
    paths, shown = trained(home, "--epochs", "1", "--seed", "1")
    assert [path.is_absolute() and path.is_dir() for path in paths] == [True]
    for text in (
        "s5+smr on pendulum",
        "30,340 parameters",
        "optimiser groups",
        "validation",
        "mse",
        "published S5",
    ):
        assert text in shown, shown
    for picture in ("learning_curve.png", "predictions.png"):
        assert picture in shown
        assert (paths[0] / "plots" / picture).stat().st_size > 10_000


def test_loads_with_one_call(run):
    model, config = load(run)
    assert config.label() == "s5+smr"
    assert config.recipe == "pendulum/default"
    assert sum(p.numel() for p in model.parameters()) == 15_820 + 14_520


def test_evaluates_at_sampling_points_it_never_saw(home, run):
    figures = {}
    for rate in (0.5, 0.3):
        done = ssm(home, "eval", str(run), "--json", sets=[f"task.sample_rate={rate}"])
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["n"] == 24
        assert report["split"] == "test"
        figures[rate] = report["metrics"]["mse"]
    tested = [
        row["value"] for row in RunFolder(run).metrics() if (row["split"], row["name"]) == ("test", "mse")
    ]
    assert figures[0.5] == pytest.approx(tested[0], rel=1e-4)
    assert figures[0.3] != figures[0.5]
    assert len(list((run / "eval").glob("*.json"))) >= 2


@pytest.mark.slow
def test_seeds_run_side_by_side_and_compare_joins_them(home):
    paths, shown = trained(home, "--epochs", "1", "--seeds", "0-1")
    assert len(paths) == 2
    assert "over 2 seeds" in shown
    done = ssm(home, "compare", *map(str, paths), "--json", sets=[])
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["parameters"] == 30_340


def test_interrupted_then_resumed_is_bit_for_bit(home, run):
    environment = os.environ | {"SSM_DATA_DIR": str(home / "data"), "OMP_NUM_THREADS": "1"}
    words = [*TRAIN, "--epochs", "2", "--out", "broken", "--set", "train.checkpoint_every=1"]
    words += [part for item in SMALL for part in ("--set", item)]
    command = [sys.executable, "-m", "ssm_lab", *words]
    process = subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(home.glob("broken/pendulum/*/latest.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert b"--resume" in errors
    (broken,) = home.glob("broken/pendulum/*")
    assert output.decode().splitlines() == [str(broken)]
    assert RunFolder(broken).status()["step"] < 4
    done = ssm(home, "train", "--resume", str(broken), sets=[])
    assert done.returncode == 0, done.stderr
    found, expected = (
        load_file(RunFolder(r).checkpoint("latest") / "model.safetensors") for r in (broken, run)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "backbone.state_sise=3"], "did you mean 'state_size'"),
        (["--set", "task.sample_rate=2"], "sample_rate"),
        (["--recipe", "defualt"], "did you mean 'pendulum/default'"),
    ],
)
def test_bad_input_is_told_and_makes_nothing(home, words, message):
    done = ssm(home, *TRAIN, "--out", "none", *words, sets=[])
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not (home / "none").exists()
