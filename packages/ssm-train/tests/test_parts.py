"""Schedule, batch order, optimiser groups and random states, each by itself."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from toy_runs import Toy, settings

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Hint
from ssm_core.run.config import OptimConfig, RunConfig, TrainConfig
from ssm_core.run.folder import RunFolder
from ssm_train import describe, fit, resume, rng
from ssm_train.batches import BatchPlan
from ssm_train.optimizer import NamedAdamW, groups_table
from ssm_train.schedule import lr_factor


def test_warmup_rises_linearly_then_cosine_falls_to_zero():
    config = OptimConfig(warmup_epochs=1.0)
    factors = [lr_factor(step, 300, 10, config) for step in range(300)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[155] == pytest.approx(0.5, abs=0.01)
    assert factors[-1] < 1e-4


def test_constant_schedule_and_floor():
    assert lr_factor(250, 300, 10, OptimConfig(schedule="constant")) == 1.0
    assert lr_factor(299, 300, 10, OptimConfig(lr_min=0.1)) == pytest.approx(0.1, abs=1e-3)


@given(rows=st.integers(1, 60), size=st.integers(1, 9), seed=st.integers(0, 5), drop=st.booleans())
def test_every_epoch_is_a_permutation(rows, size, seed, drop):
    config = TrainConfig(batch_size=size, drop_last=drop, epochs=2)
    if drop and rows < size:
        with pytest.raises(ConfigError, match=r"fewer than train\.batch_size"):
            BatchPlan.of(rows, config, seed)
        return
    plan = BatchPlan.of(rows, config, seed)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [row for step in steps for row in plan.indices(step)]
        assert len(seen) == len(set(seen)) == (rows - rows % size if drop else rows)
        assert set(seen) <= set(range(rows))


def test_order_depends_on_seed_and_epoch_only():
    plan = BatchPlan.of(50, TrainConfig(batch_size=5), 1)
    first = plan.indices(3)
    torch.rand(100)
    assert BatchPlan.of(50, TrainConfig(batch_size=5), 1).indices(3) == first
    assert BatchPlan.of(50, TrainConfig(batch_size=5), 2).indices(3) != first
    assert plan.indices(13) != first


class Hinted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(3))
        self.weight = nn.Parameter(torch.ones(3, 3))
        self.norm = nn.LayerNorm(3)

    def param_hints(self):
        return {"a": Hint(lr_scale=0.25, weight_decay=0.0)}


def test_groups_follow_hints_and_table_shows_them():
    model, config = Hinted(), OptimConfig(lr=0.4, weight_decay=0.1)
    found = {
        (g["lr"], g["weight_decay"]): len(g["params"]) for g in NamedAdamW(model, config).adamw.param_groups
    }
    assert found == {(0.4, 0.1): 1, (0.4, 0.0): 2, (0.1, 0.0): 1}
    assert groups_table(model, config).row_count == 3


def test_optimizer_state_of_another_model_is_refused():
    optimizer = NamedAdamW(Hinted(), OptimConfig())
    with pytest.raises(UserError, match="'b' does not fit"):
        optimizer.load({"exp_avg/b": torch.zeros(3)})


class Turning(nn.Module):
    """Multiplies by complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(3, 8, dtype=torch.complex64))
        self.line = nn.Linear(8, 1)

    def forward(self, x_bld):
        return self.line((x_bld.to(torch.complex64) @ self.turn).abs())


def test_complex_parameters_are_trained_clipped_and_gone_on_with(tmp_path):
    runs = []
    for first in (20, 13):
        torch.manual_seed(7)
        wanted = settings(steps=first, clip_norm=0.1)
        wanted["optim"] |= {"schedule": "constant", "warmup_epochs": 0.0}
        runs.append(fit(wanted, Toy(), Turning(), out=tmp_path, quiet=True))
    resume(runs[1], {"steps": 20}, task=Toy(), model=Turning(), quiet=True)
    whole, halves = (load_file(RunFolder(run).checkpoint("latest") / "model.safetensors") for run in runs)
    assert whole["model.turn"].is_complex()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_random_states_return():
    rng.seed_everything(5)
    state = rng.capture()

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    first = draw()
    assert draw() != first
    rng.restore(*state)
    assert draw() == first


def test_a_dry_run_looks_at_the_device_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for train, said in (
        ({"device": "cuda"}, "finds no CUDA device"),
        ({"precision": "fp16"}, "needs a CUDA device"),
    ):
        with pytest.raises(UserError, match=said):
            describe(RunConfig.from_tree({"train": train}))
    with pytest.raises(UserError, match="names no task"):
        describe(RunConfig.from_tree({}))
