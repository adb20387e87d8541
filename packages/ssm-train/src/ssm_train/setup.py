"""From a configuration to what the loop needs: checks, data, model, order of batches, run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from ssm_core.model import build_for_task, check_capabilities
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError, did_you_mean
from ssm_core.protocols import Split, Task
from ssm_core.run.config import RunConfig
from ssm_core.run.data import changed, data_of
from ssm_core.run.folder import RunFolder, write_json
from ssm_eval.metrics import make_metrics
from ssm_train import rng
from ssm_train.batches import BatchPlan, plan_of
from ssm_train.device import check_device, make_accelerator, set_threads
from ssm_train.display import Display
from ssm_train.environment import environment
from ssm_train.optimizer import groups_table, parameter_count
from ssm_train.record import check_tracker


class Bound(nn.Module):
    """One's own module with the task that runs it.

    Args:
        model: Any module.
        task: Its :meth:`run` calls the module.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any, state: Any = None) -> Any:
        """Return the task's output for a batch."""
        return self.task.run(self.model, batch, state)


def task_of(config: RunConfig) -> Task:
    """Build the task of a run.

    Raises:
        ConfigError: If the run names none.
    """
    if config.task is None:
        raise ConfigError("the run names no task", "add --task NAME")
    return registry.builder("task", config.task.name)[1](config.task.config)


def prepared(
    config: RunConfig,
    task: Task | None,
    model: nn.Module | None,
    display: Display,
    out: Path | str | None = None,
) -> tuple[Accelerator, Task]:
    """Check all that can be checked at once, ``out`` included if a run folder is to be made there; then make the data.

    Raises:
        UserError: If the configuration cannot work on this machine or with this task.
    """
    if out is not None:
        check_out(out)
    task = task_of(config) if task is None else task
    check_tracker(config.train.tracker)
    if model is None and config.backbone is not None:
        check_capabilities(config.backbone, config.model, task.needs, task.max_length)
    set_threads(config.train.threads)
    accelerator = make_accelerator(config.train)
    task.prepare(display.progress)
    return accelerator, task


def check_out(out: Path | str) -> None:
    """Check that run folders can be made under a folder, which need not exist yet. Nothing is made.

    Raises:
        UserError: If not.
    """
    there = Path(out).absolute()
    while not os.access(there, os.F_OK) and there != there.parent:
        there = there.parent
    why = "" if os.access(there, os.W_OK | os.X_OK) else "may not be written"
    if why := why if there.is_dir() else "is no folder":
        raise UserError(f"cannot make a run folder under {out}: {there} {why}", "choose another --out")


def plan_batches(config: RunConfig, task: Task, accelerator: Accelerator) -> BatchPlan:
    """Return which rows make up which batch of the run.

    Raises:
        ConfigError: If the settings do not go with the task's splits, or the task could not be evaluated.
    """
    splits = task.splits()
    _check_evaluation(task, splits)
    waits = {"train.patience": config.train.patience, "optim.schedule": config.optim.schedule == "plateau"}
    if "validation" not in splits and any(waits.values()):
        knob = next(name for name, wanted in waits.items() if wanted)
        raise ConfigError(
            f"{knob} waits for a better validation metric, and the task has no validation split",
            "--set train.patience=0 and another optim.schedule",
        )
    processes = accelerator.num_processes
    return plan_of(splits["train"], config.train, config.seed, processes, carries=task.needs.carry_state)


def _check_evaluation(task: Task, splits: Mapping[str, Split]) -> None:
    """Check now what an evaluation would stumble over after the first epoch, or after the last."""
    whose = type(task).__name__
    make_metrics(task.metrics, whose=whose)
    name, direction = task.primary
    if name not in (known := (*task.metrics, "loss")):
        raise ConfigError(
            f"{whose}.primary names '{name}', which is not among its metrics", did_you_mean(name, known)
        )
    if direction not in ("min", "max"):
        raise ConfigError(
            f"{whose}.primary says '{direction}' of {name}", 'write "min" where less is better, else "max"'
        )
    for split in ("validation", "test"):
        if split in splits and not len(splits[split]):
            raise ConfigError(
                f"the {split} split of {whose} has no rows", "give it some, or leave it out of splits()"
            )


def check_data(run: RunFolder, task: Task) -> None:
    """Check that a run goes on with the data that it began with, as far as both can tell.

    Raises:
        UserError: If a split has another fingerprint than at the beginning.
    """
    held, told = run.data(), data_of(task)
    for name in changed(held, told):
        then, now = ((each[name] or {}).get("provenance") for each in (held, told))
        raise UserError(
            f"the {name} split is not the data that {run.path} began with\n    then: {then}\n    now:  {now}",
            "put that data back, or name it (SSM_DATA_ROOT, the folder you start in); "
            f"for a run on the new data, begin with --config {run.path}/config.json; "
            f"to go on with it all the same, delete {run.path}/data.json, and nothing is compared",
        )


def changed_plugins(run: RunFolder, config: RunConfig) -> list[str]:
    """Return a notice for each plugin of the run that has another version now."""
    held = run.config_tree().get("plugins", {})
    return [
        f"{c.name} is {c.version} now; the run was made with {held[c.name]}, so it may go on differently"
        for c in config.choices()
        if held.get(c.name, c.version) != c.version
    ]


def build(
    config: RunConfig, task: Task, model: nn.Module | None, accelerator: Accelerator, display: Display
) -> nn.Module:
    """Build the model on its device, and say what it is."""
    rng.seed_everything(config.seed)
    bound = build_for_task(config, task) if model is None else Bound(model, task)
    bound.to(accelerator.device)
    # The same weights everywhere, but dropout of its own in each process.
    rng.seed_everything(config.seed + accelerator.process_index)
    display.say(summary(config, bound))
    display.say(groups_table(bound, config.optim))
    return bound


def new_folder(
    out: Path | str,
    config: RunConfig,
    accelerator: Accelerator,
    source: Path | None,
    made: Mapping[str, Any],
) -> RunFolder:
    """Make the run folder, known to every process; ``made`` is what :func:`ssm_train.made.made_of` says."""
    path: list[Any] = [None]
    if accelerator.is_main_process:
        run = RunFolder.create(out, config)
        began = {"init_from": str(source)} if source is not None else {}
        write_json(run.path / "env.json", {**environment(accelerator.device), **began, "made": made})
        path = [str(run.path)]
    if accelerator.num_processes > 1:
        broadcast_object_list(path)
    return RunFolder(path[0])


def describe(config: RunConfig) -> str:
    """Return a text about the model a run would train: nesting, parameters, optimiser groups. Makes no data.

    The model is built on the meta device: at any size, at once, and before the data is there.

    Raises:
        UserError: If the model cannot be built, or the machine lacks what the run asks for.
    """
    from rich.console import Console

    check_device(config.train)
    with torch.device("meta"):
        model = build_for_task(config, task_of(config))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(summary(config, model))
        console.print(groups_table(model, config.optim))
    return capture.get()


def summary(config: RunConfig, model: nn.Module) -> str:
    """Return one line about the model."""
    task = config.task.short if config.task else "own task"
    shape = (
        f"{config.model.n_layers} layers of width {config.model.d_model}" if config.backbone else "own model"
    )
    return f"{config.label()} on {task}: {shape}, {parameter_count(model):,} parameters"
