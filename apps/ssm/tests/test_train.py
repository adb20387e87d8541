from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

import ssm_train
from ssm_core.plugin.errors import UserError
from ssm_lab.commands.train import app
from ssm_lab.main import root
from ssm_train import TrainingFailed
from ssm_train.errors import RunInterrupted

FLAGS = [
    "--backbone",
    "--addon",
    "--task",
    "--recipe",
    "--config",
    "--set",
    "--epochs",
    "--steps",
    "--seed",
    "--seeds",
    "--device",
    "--out",
    "--resume",
    "--init-from",
    "--dry-run",
    "--quiet",
]
"""Everything else is ``--set``: a new flag here needs a reason in design.md."""

BASE = ("train", "--backbone", "s5", "--task", "pendulum")


@pytest.fixture
def calls(stand_in, tmp_path):
    """Record what would have been trained."""
    recorded = []

    def fit(config, task=None, model=None, **how):
        sys.stdout.write("noise of some plugin\n")
        recorded.append(("fit", config, how))
        return tmp_path / "run"

    def fit_seeds(config, seeds, **how):
        recorded.append(("seeds", config, {"seeds": seeds, **how}))
        return [tmp_path / f"run{seed}" for seed in seeds]

    def resume(run, changes, **how):
        recorded.append(("resume", run, {"changes": changes, **how}))
        return Path(run)

    for name, function in (("fit", fit), ("fit_seeds", fit_seeds), ("resume", resume)):
        stand_in(ssm_train, name, function)
    return recorded


def test_the_flags_are_frozen():
    command = typer.main.get_command(app)
    flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
    assert [flag for flag in flags if "completion" not in flag] == FLAGS


def test_the_root_holds_the_command_under_its_name():
    assert "train" in typer.main.get_command(root(["train"])).commands


def test_standard_output_is_the_path_alone(ssm, calls, tmp_path):
    done = ssm(*BASE, "--addon", "smr", "--out", tmp_path / "o", "--quiet", "--seed", "3")
    assert (done.code, done.out) == (0, f"{tmp_path / 'run'}\n")
    assert "noise of some plugin" in done.err
    ((kind, config, how),) = calls
    assert kind == "fit"
    assert (config.label(), config.task.short, config.seed) == ("s5+smr", "pendulum", 3)
    assert how == {"out": tmp_path / "o", "init_from": None, "quiet": True}


def test_defaults_of_the_run(ssm, calls, tmp_path):
    ssm(*BASE, "--init-from", tmp_path)
    _, _, how = calls[0]
    assert how == {"out": Path("runs"), "init_from": tmp_path, "quiet": False}


def test_several_seeds_give_several_paths(ssm, calls, tmp_path):
    done = ssm(*BASE, "--seeds", "0-1,4")
    assert done.out.splitlines() == [str(tmp_path / f"run{seed}") for seed in (0, 1, 4)]
    assert calls[0][2] == {"seeds": [0, 1, 4], "out": Path("runs"), "quiet": False}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seed", "1", "--seeds", "0-4"), "--seed and --seeds exclude each other"),
        (("--epochs", "1", "--steps", "1"), "--epochs and --steps"),
        (("--seeds", "x"), "--seeds takes numbers"),
        (("--seeds", "0-1", "--init-from", "r"), "--seeds and --init-from exclude each other"),
        (("--backbone", "s55"), "there is no backbone 's55'"),
        (("--addon", "smrr"), "there is no addon 'smrr'"),
        (("--recipe", "nonsense"), "there is no recipe 'pendulum/nonsense'"),
        (("--config", "absent.toml"), "cannot read the configuration file absent.toml"),
        (("--set", "optim.lrr=1"), "the run has no setting 'optim.lrr'"),
        (("--epochs", "0"), "--epochs"),
        (("--resume", "absent"), "is not a run folder"),
        (("--resume", "r", "--out", "o", "--seeds", "0-1"), "without --seeds, --out"),
    ],
)
def test_bad_input_is_status_2_before_anything_is_made(ssm, calls, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    done = ssm(*BASE, *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_bad_input_found_later_is_status_2_too(ssm, stand_in):
    def fit(*_, **__):
        raise UserError("the disk is full", "make room")

    stand_in(ssm_train, "fit", fit)
    done = ssm(*BASE)
    assert (done.code, done.out) == (2, "")
    assert "error: the disk is full\n  make room" in done.err


def test_a_failed_run_is_status_1_and_its_path_is_told(ssm, stand_in, make_run):
    run = make_run()

    def fit(*_, **__):
        raise TrainingFailed("the loss is not finite at step 3", run.path)

    stand_in(ssm_train, "fit", fit)
    done = ssm(*BASE)
    assert (done.code, done.out) == (1, f"{run.path}\n")
    assert "failed: the loss is not finite at step 3" in done.err


def test_an_interrupted_run_is_status_1_and_is_not_called_failed(ssm, stand_in, make_run):
    run = make_run()

    def fit(*_, **__):
        raise RunInterrupted("interrupted by SIGINT after step 3 of 9; everything is saved", run.path)

    stand_in(ssm_train, "fit", fit)
    done = ssm(*BASE)
    assert (done.code, done.out) == (1, f"{run.path}\n")
    assert done.err == "interrupted by SIGINT after step 3 of 9; everything is saved\n"


def test_a_dry_run_makes_nothing(ssm, calls, stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stand_in(ssm_train, "describe", lambda config: f"a model of {config.label()}")
    done = ssm(*BASE, "--dry-run", "--epochs", "2")
    assert (done.code, done.out, calls) == (0, "", [])
    assert "epochs = 2" in done.err
    assert "a model of s5" in done.err
    assert list(tmp_path.iterdir()) == []


def test_resume_takes_everything_from_the_run(ssm, calls, make_run):
    run = make_run()
    done = ssm("train", "--resume", run.path)
    assert (done.code, done.out) == (0, f"{run.path}\n")
    assert calls == [("resume", run.path, {"changes": {}, "quiet": False})]


def test_resume_may_change_length_device_tracker_and_intervals(ssm, calls, make_run):
    run = make_run(train={"steps": 5})
    ssm(
        "train",
        "--resume",
        run.path,
        "--epochs",
        "7",
        "--device",
        "cpu",
        "--set",
        "train.tracker=tensorboard",
    )
    ssm("train", "--resume", run.path, "--steps", "9", "--set", "train.eval_every=2", "--quiet")
    first, second = (how["changes"] for _, _, how in calls)
    assert first == {"epochs": 7, "steps": None, "device": "cpu", "tracker": "tensorboard"}
    assert second == {"steps": 9, "eval_every": 2}


def test_resume_may_repeat_what_the_run_has(ssm, calls, make_run):
    run = make_run(seed=3, recipe="pendulum/paper")
    words = (
        "--backbone",
        "s5",
        "--addon",
        "smr",
        "--task",
        "ssm-data/pendulum",
        "--seed",
        "3",
        "--recipe",
        "paper",
    )
    assert ssm("train", "--resume", run.path, *words).code == 0
    assert calls[0][2]["changes"] == {}


def test_resume_refuses_everything_else_at_once(ssm, calls, make_run):
    run = make_run()
    words = (
        "--set",
        "optim.lr=0.5",
        "--set",
        "addons.smr.tau=9",
        "--seed",
        "7",
        "--steps",
        "4",
        "--recipe",
        "paper",
    )
    done = ssm("train", "--resume", run.path, *words)
    assert (done.code, done.out, calls) == (2, "", [])
    for part in (
        "optim.lr is 0.001, asked for 0.5",
        "addons.ssm-smr/smr.tau is 4, asked for 9",
        "seed is 0, asked for 7",
        "recipe is '', asked for 'pendulum/paper'",
        f"start one with --config {run.path}",
    ):
        assert part in done.err
    assert "train.steps is" not in done.err


def test_resume_of_another_backbone_says_no_more_than_that(ssm, calls, make_run):
    run = make_run()
    done = ssm("train", "--resume", run.path, "--backbone", "s4", "--set", "optim.lr=0.5")
    assert (done.code, calls) == (2, [])
    (said,) = [line.partition(f"{run.path}: ")[2] for line in done.err.splitlines() if "takes these" in line]
    assert said == "backbone.name is 'ssm-core/s5', asked for 'ssm-core/s4'; optim.lr is 0.001, asked for 0.5"
    done = ssm("train", "--resume", run.path, "--addon", "serpent")
    (said,) = [line.partition(f"{run.path}: ")[2] for line in done.err.splitlines() if "takes these" in line]
    assert said == "addons is ['ssm-smr/smr'], asked for ['ssm-serpent/serpent']"


def test_resume_refuses_another_order_of_add_ons(ssm, calls, make_run):
    run = make_run()
    done = ssm("train", "--resume", run.path, "--backbone", "s5", "--set", "backbone.state_size=8")
    assert done.code == 2
    assert "backbone.state_size is 64, asked for 8" in done.err


def test_the_command_itself_loads_no_torch():
    assert "torch" not in vars(sys.modules["ssm_lab.commands.train"])
