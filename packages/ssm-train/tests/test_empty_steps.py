"""Batches without a target."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from toy_runs import Toy, module, settings

from ssm_core.protocols import Loss
from ssm_core.run.folder import RunFolder
from ssm_eval.checkpoint import pointer
from ssm_train import TrainingFailed, fit


class Masked(Toy):
    """The toy, whose training batches (or slices of one) of some numbers have no target."""

    def __init__(self, empty: Callable[[int], bool]) -> None:
        super().__init__()
        self.empty, self.calls = empty, 0

    def loss(self, output, batch):
        total, weight = super().loss(output, batch)
        if torch.is_grad_enabled():
            self.calls += 1
            if self.empty(self.calls):
                return Loss(total * 0, weight * 0)
        return Loss(total, weight)


def trained(tmp_path, empty, name="run", **train) -> RunFolder:
    torch.manual_seed(7)
    tree = settings(**train)
    tree["optim"] |= {"schedule": "constant", "warmup_epochs": 0, "weight_decay": 0.1}
    return RunFolder(fit(tree, Masked(empty), module(), out=tmp_path / name, quiet=True))


def rows(run: RunFolder, name: str) -> dict[int, float]:
    return {
        row["step"]: row["value"] for row in run.metrics() if row["name"] == name and row["split"] == "train"
    }


def weights(run: RunFolder) -> bytes:
    return (run.checkpoint("latest") / "model.safetensors").read_bytes()


def test_a_step_without_a_target_is_skipped_and_counted(tmp_path):
    run = trained(tmp_path, lambda call: call == 3, steps=3)
    before = trained(tmp_path, lambda call: False, "before", steps=2)
    assert weights(run) == weights(before)  # no decay either, and no move by the moments
    assert run.status()["state"] == "finished"
    assert pointer(run)["step"] == 3
    assert set(rows(run, "loss")) == set(rows(run, "grad_norm")) == {1, 2}
    assert set(rows(run, "lr")) == {1, 2, 3}
    assert rows(run, "empty_steps") == {3: 1}
    assert rows(before, "empty_steps") == {}
    assert "1 of 3 steps had no target, and were skipped" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(("empty", "counted"), [({3, 4}, {3: 1}), ({2, 3}, {})])
def test_a_step_is_skipped_only_if_all_of_its_slices_are_empty(tmp_path, empty, counted):
    run = trained(
        tmp_path, lambda call: call in empty, steps=3, accumulate=2
    )  # 3 and 4 are the second step's
    assert rows(run, "empty_steps") == counted
    assert len(rows(run, "loss")) == 3 - len(counted)


@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 4}])
def test_no_target_at_all_is_an_error_that_names_the_cause(tmp_path, length):
    with pytest.raises(
        TrainingFailed, match=r"no batch of epoch 1 has a target: .* weight 0 .*\n.*-100"
    ) as failure:
        trained(tmp_path, lambda call: True, **length)
    status = RunFolder(failure.value.run).status()
    assert (status["state"], status["step"]) == ("failed", length.get("steps", 10))


def test_a_short_last_epoch_may_have_none(tmp_path):
    run = trained(tmp_path, lambda call: call > 10, steps=11)
    assert (run.status()["state"], rows(run, "empty_steps")) == ("finished", {11: 1})
