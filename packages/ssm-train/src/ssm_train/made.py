"""What a run trains, as far as its configuration does not say: one's own classes have no settings there."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ssm_core.protocols import Task
from ssm_train.batches import BatchPlan
from ssm_train.optimizer import parameter_count
from ssm_train.setup import Bound


def made_of(model: nn.Module, task: Task, plan: BatchPlan) -> dict[str, Any]:
    """Return what ``env.json`` says under ``made``: ``{task, model, shapes, parameters, steps_per_epoch}``.

    ``task`` and ``model`` are the full names of their classes, ``shapes`` is a hash of the parameters' names and
    shapes, ``parameters`` counts their scalars, those of tied weights once.

    Args:
        model: The model; one's own module with the task beside it is told by the module.
        task: The problem.
        plan: Which rows make up which batch.
    """
    shapes = [f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters()]
    return {
        "task": _name(task),
        "model": _name(model.model if isinstance(model, Bound) else model),
        "shapes": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:12],
        "parameters": parameter_count(model),
        "steps_per_epoch": plan.steps_per_epoch,
    }


def changed_classes(held: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a notice for task and model, if a run goes on with another class than it began with.

    Args:
        held: What the run's ``env.json`` says under ``made``; empty in older runs.
        now: What :func:`made_of` says.
    """
    return [
        f"the {what} is {now[what]} now; the run was made with {held[what]}, so it may go on differently"
        for what in ("task", "model")
        if what in held and held[what] != now[what]
    ]


def _name(value: object) -> str:
    module, name = type(value).__module__, type(value).__qualname__
    # A script is __main__ to itself, whichever it is; its file's name is what others import it by.
    if module == "__main__" and (file := getattr(sys.modules["__main__"], "__file__", None)):
        module = Path(file).stem
    return f"{module}.{name}"
