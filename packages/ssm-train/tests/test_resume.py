"""What a resume refuses, what it forgives, and what it takes along."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_empty_steps import Masked, rows
from toy_runs import Toy, module, settings

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_core.run.load import Misfit
from ssm_train import TrainingFailed, fit, resume
from ssm_train.lock import training_alone

HOLDS = """
import sys, time
from ssm_core.run.folder import RunFolder
from ssm_train.lock import training_alone

with training_alone(RunFolder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


class Scripted(Toy):
    """Its validation metric is what a list says, evaluation by evaluation; its test metric is 0."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def predictions(self, output, batch):
        target = super().predictions(output, batch)["target"]
        return {"prediction": target + next(self.values, 0.0) ** 0.5, "target": target}


def test_a_run_that_another_process_trains_is_not_taken_up(tmp_path):
    run = fit(settings(epochs=1), Toy(), module(), out=tmp_path, quiet=True)
    command = [sys.executable, "-c", HOLDS, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=r"(?s)is being trained by another process.*--resume"):
                resume(run, {"epochs": 2}, task=Toy(), model=module(), quiet=True)
        finally:
            other.kill()
    assert (run / "lock").is_file()
    resume(run, {"epochs": 2}, task=Toy(), model=module(), quiet=True)
    assert RunFolder(run).status()["step"] == 20


def test_a_run_is_locked_from_its_beginning_to_its_end(tmp_path):
    asked = []

    class Asking(Toy):
        def loss(self, output, batch):
            if not asked:
                (run,) = tmp_path.glob("own-task/*")
                with pytest.raises(UserError, match="being trained"), training_alone(RunFolder(run)):
                    raise AssertionError("it was free")
                asked.append(run)
            return super().loss(output, batch)

    run = fit(settings(steps=1), Asking(), module(), out=tmp_path, quiet=True)
    assert asked == [run]
    with training_alone(RunFolder(run)):
        pass


def test_an_end_before_the_step_reached_is_refused(tmp_path):
    run = fit(settings(epochs=2), Toy(), module(), out=tmp_path, quiet=True)
    RunFolder(run).write_status("interrupted", step=20, total=20)
    with pytest.raises(UserError, match=r"has taken 20 steps already.* end after 10\n.*--epochs"):
        resume(run, {"epochs": 1}, task=Toy(), model=module(), quiet=True)
    assert RunFolder(run).status()["state"] == "interrupted"
    assert not any(row["split"] == "run" for row in RunFolder(run).metrics())


def test_another_model_is_refused_by_the_name_of_its_weights(tmp_path):
    run = fit(settings(epochs=1), Toy(), torch.nn.Linear(3, 1), out=tmp_path, quiet=True)
    with pytest.raises(Misfit, match=r"safetensors has in another shape .*model\.weight\n.*the model that"):
        resume(run, {"epochs": 2}, task=Toy(), model=torch.nn.Linear(3, 2), quiet=True)


def best_then_damaged(tmp_path: Path) -> Path:
    """Return a run whose best checkpoint was the first and then the last, which is damaged."""
    wanted = settings(epochs=4, keep=2)
    run = fit(wanted, Scripted([4.0, 5.0, 6.0, 3.0]), module(), out=tmp_path, quiet=True)
    (run / "checkpoints" / "step-00000040" / "model.safetensors").write_bytes(b"damaged")
    return run


def test_going_back_over_the_best_leaves_the_one_before_it(tmp_path):
    run = best_then_damaged(tmp_path)
    RunFolder(run).write_status("interrupted", step=40, total=40)
    resume(run, task=Scripted([5.0]), model=module(), quiet=True)
    assert RunFolder(run).status()["state"] == "finished"
    assert json.loads((run / "best.json").read_text())["step"] == 10
    assert (run / "eval" / "test@10.json").is_file()


def test_a_best_that_is_lost_ends_no_run(tmp_path, capfd):
    run = best_then_damaged(tmp_path)
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    resume(run, {"steps": 31}, task=Scripted([5.0]), model=module())
    assert "the best checkpoint so far, of step 10, is lost" in capfd.readouterr().err
    assert RunFolder(run).status()["state"] == "finished"
    assert json.loads((run / "best.json").read_text())["step"] == 31


def test_a_lost_best_without_another_validation_leaves_the_latest(tmp_path):
    run = best_then_damaged(tmp_path)
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    RunFolder(run).write_status("interrupted", step=30, total=30)
    resume(run, {"steps": 30}, task=Scripted([]), model=module(), quiet=True)
    assert not (run / "best.json").exists()
    assert (run / "eval" / "test@30.json").is_file()


def test_empty_steps_before_a_stop_are_counted(tmp_path):
    run = fit(settings(steps=5), Masked(lambda call: call in (2, 4)), module(), out=tmp_path, quiet=True)
    resume(run, {"epochs": 1}, task=Masked(lambda call: call == 1), model=module(), quiet=True)
    assert rows(RunFolder(run), "empty_steps") == {5: 2, 10: 3}


def test_an_epoch_without_a_target_is_an_error_over_a_stop_too(tmp_path):
    def later(call):
        return call > 10

    with pytest.raises(TrainingFailed, match="no batch of epoch 2"):
        fit(settings(epochs=2, checkpoint_every=5), Masked(later), module(), out=tmp_path / "a", quiet=True)
    run = fit(settings(steps=15), Masked(later), module(), out=tmp_path / "b", quiet=True)
    with pytest.raises(TrainingFailed, match="no batch of epoch 2"):
        resume(run, {"epochs": 2}, task=Masked(lambda call: True), model=module(), quiet=True)
