"""What validation decides: plateaus, an early end; and what layers tell of themselves while it runs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import Toy, module, settings

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import OptimConfig, TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_train import fit, resume
from ssm_train.schedule import Plateau, lr_factor


def test_linear_decay_ends_at_the_least_rate():
    config = OptimConfig(schedule="linear", warmup_epochs=1.0, lr_min=0.1)
    factors = [lr_factor(step, 110, 10, config) for step in range(111)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.55)
    assert np.diff(factors[10:]) == pytest.approx(np.full(100, -0.009))
    assert factors[110] == pytest.approx(0.1)


def test_plateaus_wait_for_their_patience_and_keep_to_the_least_rate():
    config = OptimConfig(schedule="plateau", plateau_factor=0.5, plateau_patience=2, lr_min=0.2)
    plateau = Plateau(config)
    assert lr_factor(500, 1000, 10, config) == 1.0
    better = [True, False, True, False, False, False, False, False, False]
    factors = []
    for epoch, good in enumerate(better, 1):
        falls = plateau.validated(10 * epoch, 10, better=good)
        factors.append(plateau.factor)
        assert falls == (epoch in (5, 7, 9))
        again = Plateau(config)
        again.load(plateau.state())
        plateau = again
    assert factors == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2]


def test_other_schedules_know_no_plateau():
    plateau = Plateau(OptimConfig(plateau_patience=1))
    assert not any(plateau.validated(10 * k, 10, better=False) for k in range(1, 9))
    assert plateau.factor == 1.0


@pytest.mark.parametrize(
    "wrong", [{"plateau_factor": 1.0}, {"plateau_patience": 0}, {"lr_min": 1.5}, {"lr_min": -0.1}]
)
def test_wrong_optimiser_settings_are_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimConfig(**wrong)


@pytest.mark.parametrize("name", ["bucket", "patience"])
def test_wrong_loop_settings_are_told(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        TrainConfig(**{name: -1})


class Scripted(Toy):
    """Its validation metric is what a list says, evaluation by evaluation."""

    def __init__(self, values) -> None:
        super().__init__()
        del self.data["test"]
        self.values, self.asked = values, 0

    def predictions(self, output, batch):
        found = super().predictions(output, batch)
        value = self.values[self.asked]
        self.asked += 1
        return {"prediction": found["target"] + value**0.5, "target": found["target"]}


def lines(run, split, name):
    rows = RunFolder(run).metrics()
    return {r["step"]: r["value"] for r in rows if (r["split"], r["name"]) == (split, name)}


VALUES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 3.1, 2.0, 1.0]


def test_a_run_ends_early_and_says_so_and_goes_on_if_asked(tmp_path):
    run = fit(settings(epochs=9, patience=3), Scripted(VALUES), module(), out=tmp_path, quiet=True)
    status = RunFolder(run).status()
    assert (status["state"], status["step"], status["total"]) == ("finished", 70, 90)
    assert "stopped early after step 70: validation mse has not got better for 3 epochs" in status["reason"]
    assert status["reason"] in (run / "log.txt").read_text()
    with pytest.raises(UserError, match="stopped early after step 70") as told:
        resume(run, task=Scripted(VALUES), model=module(), quiet=True)
    assert "train.patience" in str(told.value)
    resume(run, {"patience": 0}, task=Scripted(VALUES[7:]), model=module(), quiet=True)
    assert RunFolder(run).status()["step"] == 90
    assert "reason" not in RunFolder(run).status()


def test_patience_survives_a_stop(tmp_path):
    run = fit(settings(steps=65, patience=3), Scripted(VALUES), module(), out=tmp_path, quiet=True)
    assert RunFolder(run).status()["step"] == 65
    resume(run, {"epochs": 9}, task=Scripted(VALUES[6:]), model=module(), quiet=True)
    assert RunFolder(run).status()["step"] == 70


def test_the_rate_falls_at_plateaus_also_over_a_stop(tmp_path):
    optim = {
        "lr": 0.01,
        "schedule": "plateau",
        "plateau_patience": 2,
        "plateau_factor": 0.1,
        "warmup_epochs": 0.0,
    }
    whole = fit(settings(epochs=9) | {"optim": optim}, Scripted(VALUES), module(), out=tmp_path, quiet=True)
    rates = lines(whole, "train", "lr")
    assert [rates[10 * k + 1] for k in range(9)] == pytest.approx([0.01] * 6 + [0.001] * 3)
    assert rates[60] == pytest.approx(0.01)
    run = fit(settings(steps=55) | {"optim": optim}, Scripted(VALUES), module(), out=tmp_path, quiet=True)
    resume(run, {"epochs": 9}, task=Scripted([VALUES[5], *VALUES[6:]]), model=module(), quiet=True)
    after = lines(run, "train", "lr")
    assert [after[step] for step in range(56, 91)] == [rates[step] for step in range(56, 91)]


@pytest.mark.parametrize(
    ("tree", "knob"),
    [({"train": {"patience": 2}}, r"train\.patience"), ({"optim": {"schedule": "plateau"}}, "schedule")],
)
def test_who_waits_for_validation_needs_one(tmp_path, tree, knob):
    task = Toy()
    del task.data["validation"]
    with pytest.raises(ConfigError, match=f"{knob} waits for a better validation metric"):
        fit(settings() | tree, task, module(), out=tmp_path, quiet=True)


class Compressing(nn.Module):
    """Tells a share, drawing random numbers of every kind; a module within it tells another."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.asked = []

    def forward(self, x_bld, *, mask_bl=None, scale=1.0):
        return self.line(x_bld) * scale

    def observe(self, x_bld, *, mask_bl=None, **kwargs):
        assert not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()
        self.asked.append((x_bld.shape, self.training, kwargs))
        return {"kept": x_bld.new_tensor(0.25), "calls": len(self.asked)}


class Silent(Compressing):
    observe = None


class Telling(Toy):
    """Calls its model by keyword, with 10 validation rows in batches of 5."""

    def __init__(self) -> None:
        super().__init__()
        del self.data["test"]

    def run(self, model, batch, state=None):
        return super().run(lambda x: model(nn.functional.dropout(x, 0.1), scale=2.0), batch)


def test_layers_are_asked_once_an_evaluation_and_nothing_changes_by_it(tmp_path):
    runs, models = [], []
    for kind in (Compressing, Silent):
        torch.manual_seed(7)
        models.append(kind())
        wanted = settings(epochs=2, eval_batch_size=5)
        runs.append(fit(wanted, Telling(), models[-1], out=tmp_path, quiet=True))
    assert lines(runs[0], "validation", "model.kept") == {10: 0.25, 20: 0.25}
    assert lines(runs[0], "validation", "model.calls") == {10: 1.0, 20: 2.0}
    assert models[0].asked == [((5, 7, 3), False, {"scale": 2.0})] * 2
    assert not any("." in row["name"] for row in RunFolder(runs[1]).metrics())
    for name in ("loss", "grad_norm"):
        assert lines(runs[0], "train", name) == lines(runs[1], "train", name)
    assert not models[0]._forward_hooks
