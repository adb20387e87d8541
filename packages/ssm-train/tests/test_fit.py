"""Whole runs on a toy: what is written, exact resume, interruption, failure."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import toy_runs
from safetensors.torch import load_file
from toy_runs import Toy, module, settings

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_train import TrainingFailed, fit, resume
from ssm_train.batches import BatchPlan
from ssm_train.errors import RunInterrupted

SCRIPT = str(Path(__file__).with_name("toy_runs.py"))


@pytest.fixture(scope="module")
def start():
    """Start a run in a process of its own, forked from one that has paid for the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_runs", "ssm_train.training"])

    def begin(out, **wanted):
        process = context.Process(target=toy_runs.order, args=(str(out), wanted))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def train(start):
    """Run to the end and return the run folder."""

    def begin(out, **wanted):
        process = start(out, **wanted)
        process.join(120)
        assert process.exitcode == 0
        return Path(json.loads((out / "answer.json").read_text())["run"])

    return begin


def weights(run, which="latest"):
    return load_file(RunFolder(run).checkpoint(which) / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run):
    return {
        row["step"]: row["value"]
        for row in RunFolder(run).metrics()
        if (row["split"], row["name"]) == ("train", "loss")
    }


def wait_for_step(out, step):
    """Return the one run folder under ``out`` once it has recorded a step."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        files = list(Path(out).glob("own-task/*/metrics.jsonl"))
        if files and len(files[0].read_text().splitlines()) >= 3 * step:
            return files[0].parent
        time.sleep(0.002)
    raise AssertionError("the run recorded nothing")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train):
    """A run of 40 steps that nothing disturbed."""
    return train(tmp_path_factory.mktemp("whole"), train={"epochs": 4})


def test_run_folder_is_complete(whole):
    run = RunFolder(whole)
    assert run.status()["state"] == "finished"
    for name in (
        "config.json",
        "env.json",
        "data.json",
        "latest.json",
        "best.json",
        "log.txt",
        "plots/learning_curve.png",
    ):
        assert (whole / name).is_file(), name
    assert sorted(losses(whole)) == list(range(1, 41))
    validation = [
        row["value"] for row in run.metrics() if (row["split"], row["name"]) == ("validation", "mse")
    ]
    assert len(validation) == 4
    best = json.loads((whole / "best.json").read_text())
    assert best["value"] == min(validation)
    test = [row for row in run.metrics() if row["split"] == "test"]
    assert {row["step"] for row in test} == {best["step"]}
    assert losses(whole)[40] < losses(whole)[1]


def test_own_module_in_process_and_loss_is_repeatable(tmp_path):
    runs = []
    for name in "ab":
        torch.manual_seed(7)
        runs.append(fit(settings(epochs=1), Toy(), module(), out=tmp_path / name, quiet=True))
    assert losses(runs[0]) == losses(runs[1])


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_saves_and_resume_is_bit_for_bit(tmp_path, start, train, whole, number):
    process = start(tmp_path, train={"epochs": 4})
    run = wait_for_step(tmp_path, 5)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1, "the run was over before the signal came"
    assert signal.Signals(number).name in json.loads((tmp_path / "answer.json").read_text())["failure"]
    status = RunFolder(run).status()
    assert status["state"] == "interrupted"
    assert f"after step {status['step']}" in status["reason"]
    assert json.loads((run / "latest.json").read_text())["step"] == status["step"]
    train(tmp_path, resume=str(run))
    assert RunFolder(run).status()["state"] == "finished"
    assert same(weights(run), weights(whole))
    assert losses(run) == losses(whole)


def test_killed_then_resumed_is_bit_for_bit(tmp_path, start, train, whole):
    process = start(tmp_path, train={"epochs": 4, "checkpoint_every": 3})
    run = wait_for_step(tmp_path, 6)
    process.kill()
    process.join(60)
    assert RunFolder(run).status()["state"] == "running"
    train(tmp_path, resume=str(run))
    assert same(weights(run), weights(whole))
    assert losses(run) == losses(whole)


def test_resume_of_a_finished_run_needs_more_steps(tmp_path):
    run = fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    with pytest.raises(UserError, match="has finished its 10 steps"):
        resume(run, task=Toy(), model=module(), quiet=True)
    resume(run, {"epochs": 2}, task=Toy(), model=module(), quiet=True)
    assert len(losses(run)) == 20


def test_resume_refuses_what_makes_another_run(tmp_path):
    run = fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    with pytest.raises(ConfigError, match=r"cannot change train\.batch_size"):
        resume(run, {"batch_size": 8}, task=Toy(), model=module(), quiet=True)


class Measured(Toy):
    """The toy, whose validation metric is NaN at the evaluations that are said not to be finite."""

    def __init__(self, finite: list[bool]) -> None:
        super().__init__()
        self.finite = iter(finite)

    def predictions(self, output, batch):
        factor = 1.0 if next(self.finite, True) else float("nan")
        return {name: factor * value for name, value in super().predictions(output, batch).items()}


@pytest.mark.parametrize(
    ("finite", "best", "end"),
    [
        (
            [False, False, True, False],
            30,
            40,
        ),  # NaN is not better than a number, and any number is better than it
        ([False] * 4, 10, 30),  # nor than NaN: patience runs out
    ],
)
def test_a_metric_that_is_nan_is_not_better(tmp_path, finite, best, end):
    torch.manual_seed(7)
    run = fit(settings(epochs=4, patience=2), Measured(finite), module(), out=tmp_path, quiet=True)
    assert json.loads((run / "best.json").read_text())["step"] == best
    assert json.loads((run / "latest.json").read_text())["step"] == end


@pytest.mark.parametrize("saved", [True, False])
def test_a_second_signal_is_an_interruption_too(tmp_path, saved):
    class Stopped(Toy):
        calls = 0

        def loss(self, output, batch):
            Stopped.calls += 1
            if Stopped.calls > 3:
                raise KeyboardInterrupt
            return super().loss(output, batch)

    with pytest.raises(RunInterrupted, match=r"interrupted at once after step 3 of 10") as ending:
        fit(settings(epochs=1, checkpoint_every=2 * saved), Stopped(), module(), out=tmp_path, quiet=True)
    status = RunFolder(ending.value.run).status()
    assert (status["state"], status["step"]) == ("interrupted", 3)
    assert ("--resume" in status["reason"]) == saved
    assert ("no checkpoint" in status["reason"]) == (not saved)


def test_nan_in_the_data_is_named_and_the_last_good_checkpoint_kept(tmp_path):
    with pytest.raises(TrainingFailed) as failure:
        fit(settings(epochs=2, checkpoint_every=1), Toy(poison=17), module(), out=tmp_path, quiet=True)
    message = str(failure.value)
    assert "'inputs' holds 1 non-finite of" in message
    assert "row 17 of the training split" in message
    run = RunFolder(failure.value.run)
    assert run.status()["state"] == "failed"
    if (run.path / "latest.json").is_file():
        assert all(torch.isfinite(t).all() for t in weights(run.path).values())


def test_exploding_weights_are_named(tmp_path):
    model = module()
    with torch.no_grad():
        model[3].weight[0, 0] = float("inf")
    with pytest.raises(TrainingFailed, match=r"weight 'model\.3\.weight' holds 1 non-finite"):
        fit(settings(epochs=1), Toy(), model, out=tmp_path, quiet=True)


def test_slices_of_a_batch_give_the_whole_batch(tmp_path):
    runs = []
    for count in (1, 2, 4):
        torch.manual_seed(7)
        model = torch.nn.Linear(3, 1)
        runs.append(losses(fit(settings(epochs=1, accumulate=count), Toy(), model, out=tmp_path, quiet=True)))
    for other in runs[1:]:
        assert list(other.values()) == pytest.approx(list(runs[0].values()), rel=1e-5)


def test_clipping_bounds_the_step_and_not_the_reported_norm(tmp_path):
    config = settings(steps=3, clip_norm=1e-6) | {"optim": {"lr": 0.01, "eps": 1.0}}
    torch.manual_seed(7)
    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    run = fit(config, Toy(), model, out=tmp_path, quiet=True)
    assert (model.weight - before).abs().max() < 1e-7
    norms = [row["value"] for row in RunFolder(run).metrics() if row["name"] == "grad_norm"]
    assert min(norms) > 1e-3


def test_tensorboard_mirrors_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = fit(settings(epochs=1, tracker="tensorboard"), Toy(), module(), out=tmp_path, quiet=True)
    board = accumulator.EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 11))


@pytest.mark.parametrize(
    ("train_settings", "message"),
    [
        ({"device": "abacus"}, r"'train\.device' of the run"),
        ({"tracker": "tensorboard"}, "needs the package tensorboard\n.*uv pip install 'ssm-train"),
        ({"precision": "fp16"}, "needs a CUDA device"),
        ({"batch_size": 64}, "fewer than train.batch_size"),
    ],
)
def test_settings_that_cannot_work_are_errors_before_a_folder_is_made(
    tmp_path, monkeypatch, train_settings, message
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where there is no tensorboard
    with pytest.raises(UserError, match=message):
        fit(settings(**train_settings), Toy(), module(), out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_cheap_checks_come_before_the_data(tmp_path):
    class Costly(Toy):
        def prepare(self, progress=None):
            raise AssertionError("made the data first")

    for wrong in ({"precision": "fp16"}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="CUDA"):
            fit(settings(**wrong), Costly(), module(), out=tmp_path, quiet=True)
    with pytest.raises(UserError, match="is not a run folder"):
        fit(settings(), Costly(), module(), out=tmp_path, init_from=tmp_path, quiet=True)


def test_processes_all_get_rows_or_the_plan_is_refused():
    config = TrainConfig(batch_size=8, drop_last=False)
    assert BatchPlan.of(26, config, 0, processes=2).steps_per_epoch == 4
    with pytest.raises(ConfigError, match="the last batch of an epoch has 1 of the 25 rows"):
        BatchPlan.of(25, config, 0, processes=2)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_slice_at_fault_is_named(tmp_path, accumulate):
    with pytest.raises(TrainingFailed, match=r"'inputs' holds 1 non-finite .* row 17 of the training split"):
        fit(settings(epochs=1, accumulate=accumulate), Toy(poison=17), module(), out=tmp_path, quiet=True)
    (log,) = tmp_path.glob("own-task/*/log.txt")
    assert "row 17" in log.read_text()


def test_whatever_ends_a_run_names_its_folder(tmp_path, monkeypatch):
    def full(run, checkpoint, *, keep):
        raise UserError("cannot write the checkpoint", "free some space")

    class Faulty(Toy):
        def loss(self, output, batch):
            raise RuntimeError("a fault of the task")

    with pytest.raises(TrainingFailed, match=r"RuntimeError: a fault of the task\n.*log\.txt") as failure:
        fit(settings(epochs=1), Faulty(), module(), out=tmp_path, quiet=True)
    assert "in loss" in (failure.value.run / "log.txt").read_text()
    monkeypatch.setattr("ssm_train.checkpoint.save", full)
    with pytest.raises(TrainingFailed, match=r"cannot write the checkpoint\n.*free some space") as failure:
        fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    assert RunFolder(failure.value.run).status()["state"] == "failed"


def test_epochs_laid_over_a_run_of_steps_count(tmp_path):
    run = fit(settings(steps=5), Toy(), module(), out=tmp_path, quiet=True)
    resume(run, {"epochs": 1}, task=Toy(), model=module(), quiet=True)
    assert sorted(losses(run)) == list(range(1, 11))


def test_going_back_to_an_older_checkpoint_voids_the_rows_above_it(tmp_path, start, whole):
    run = fit(settings(epochs=1, checkpoint_every=4), Toy(), module(), out=tmp_path, quiet=True)
    (RunFolder(run).checkpoint("latest") / "model.safetensors").write_bytes(b"damaged")
    resume(run, {"steps": 9}, task=Toy(), model=module(), quiet=True)
    rows = [row for row in RunFolder(run).metrics() if row["split"] != "test"]
    assert sorted({row["step"] for row in rows}) == list(range(1, 10))
    assert len([row for row in rows if row["split"] == "validation" and row["name"] == "mse"]) == 1


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_never_touched(tmp_path, start, train, whole):
    draw = random.Random(0)
    process = start(tmp_path, train={"epochs": 4, "checkpoint_every": 1})
    run = wait_for_step(tmp_path, 2)
    kills = 0
    for _ in range(6):
        process.join(draw.uniform(0.01, 0.25))
        kills += process.is_alive()
        process.kill()
        process.join(60)
        process = start(tmp_path, resume=str(run))
    process.join(120)
    if RunFolder(run).status()["state"] != "finished":
        train(tmp_path, resume=str(run))
    assert kills >= 2
    assert same(weights(run), weights(whole))
    assert losses(run) == losses(whole)
    best = [json.loads((path / "best.json").read_text()) for path in (run, whole)]
    assert best[0] == best[1]


def test_two_processes_give_the_losses_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(SCRIPT).parent)!r})\n"
        "import torch, toy_runs\n"
        "toy_runs.module = lambda: torch.nn.Linear(3, 1)\n"
        "toy_runs.order(sys.argv[1], {'train': {'epochs': 2}})\n"
    )
    order = json.dumps({"train": {"epochs": 2}})
    done = subprocess.run(
        [*toy_runs.TWO_PROCESSES, str(script), str(tmp_path), order],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (two,) = tmp_path.glob("own-task/*")
    assert RunFolder(two).status()["state"] == "finished"
    state = json.loads((RunFolder(two).checkpoint("latest") / "state.json").read_text())
    assert sorted(state["rng"]) == ["0", "1"], "these were not two processes"
    torch.manual_seed(7)
    one = fit(settings(epochs=2), Toy(), torch.nn.Linear(3, 1), out=tmp_path / "one", quiet=True)
    for split in ("train", "validation", "test"):
        values = [
            [
                row["value"]
                for row in RunFolder(run).metrics()
                if (row["split"], row["name"]) == (split, "loss")
            ]
            for run in (one, two)
        ]
        assert values[1] == pytest.approx(values[0], rel=1e-5)
        assert values[0]
