"""The suite for tasks, run on a third party's task with rows of different lengths, and on some that break the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from _pytest.outcomes import Skipped

from ssm_core.plugin import registry
from ssm_core.protocols import Batch, Loss, Needs
from ssm_core.testing import TaskSuite

pytestmark = pytest.mark.usefixtures("toys")


class TestToyTask(TaskSuite):
    task = "toy_task"


class TestToyTaskWithoutGaps(TaskSuite):
    task = "toy_task"
    config: ClassVar = {"time": "ignored", "length": 5}


class CarriesState(TaskSuite):
    def make(self) -> Any:
        task = registry.build_task("toy_task", {})
        task.needs = replace(task.needs, carry_state=True)
        return task


def test_a_state_that_is_carried() -> None:
    CarriesState().test_state_can_be_carried_if_it_says_so()


def broken(change: Callable[[Any], None]) -> TaskSuite:
    class Suite(TaskSuite):
        n_rows = 5

        def make(self) -> Any:
            task = registry.build_task("toy_task", {})
            change(task)
            return task

    return Suite()


def patch(name: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda task: setattr(task, name, make(getattr(task, name)))


def mean_loss(loss: Any) -> Any:
    def mean(output: Any, batch: Batch) -> Loss:
        total, weight = loss(output, batch)
        return Loss(total / weight, weight)

    return mean


def counts_padding(loss: Any) -> Any:
    return lambda output, batch: Loss(
        (output.head - batch.targets).square().sum(), loss(output, batch).weight
    )


def swapped(collate: Any) -> Any:
    def transpose(rows: Any) -> Batch:
        batch = collate(rows)
        return replace(batch, dt_bl=batch.dt_bl.T)

    return transpose


def restless(splits: Any) -> Any:
    class Restless:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return {**splits()["train"][index], "inputs": torch.rand(3, 2).numpy()}

    return lambda: {"train": Restless()}


BROKEN = {
    "another name for a split": (
        patch("splits", lambda s: lambda: {**s(), "dev": s()["test"]}),
        "splits_are_named",
    ),
    "rows of tensors": (
        patch("splits", lambda s: lambda: {"train": [{"inputs": torch.ones(2)}]}),
        "rows_are_dicts_of_arrays",
    ),
    "rows that change": (patch("splits", restless), "rows_are_the_same_each_time"),
    "gaps the wrong way round": (patch("collate", swapped), "batches_have_the_agreed_form"),
    "needs that are not met": (
        lambda task: (
            setattr(task, "needs", Needs(dt=True)),
            setattr(task, "collate", _without_gaps(task.collate)),
        ),
        "batches_have_the_agreed_form",
    ),
    "a mean for a loss": (patch("loss", mean_loss), "loss_does_not_depend"),
    "padding in the loss": (patch("loss", counts_padding), "loss_does_not_depend"),
    "an encoder that looks at padding": (
        patch("encoder", lambda e: lambda d: _Centred(e(d))),
        "padding_has_no_effect",
    ),
    "a primary metric that is none": (patch("primary", lambda _: ("accuracy", "max")), "predictions_suit"),
    "a direction that is none": (patch("primary", lambda _: ("mse", "down")), "predictions_suit"),
    "a frozen encoder": (
        patch("encoder", lambda e: lambda d: _Detached(e(d))),
        "gradients_are_finite",
    ),
    "state not carried": (
        lambda task: (
            setattr(task, "needs", replace(task.needs, carry_state=True)),
            setattr(task, "run", _forgetful(task.run)),
        ),
        "state_can_be_carried",
    ),
}


def _without_gaps(collate: Any) -> Any:
    return lambda rows: replace(collate(rows), dt_bl=None)


def _forgetful(run: Any) -> Any:
    return lambda model, batch, state=None: run(model, batch)._replace(state=())


class _Centred(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.inner(replace(batch, inputs=batch.inputs - batch.inputs.mean(1, keepdim=True)))


class _Detached(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.inner(batch).detach()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_task_is_found_out(fault: str) -> None:
    change, check = BROKEN[fault]
    (name,) = (name for name in dir(TaskSuite) if name.startswith(f"test_{check}"))
    with pytest.raises((AssertionError, Skipped)) as caught:
        getattr(broken(change), name)()
    assert caught.type is AssertionError, caught.value
