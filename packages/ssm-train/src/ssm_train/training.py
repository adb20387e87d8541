"""A run from its configuration to its pictures; what ``ssm train`` calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Task
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.folder import RunFolder, write_json
from ssm_core.run.load import load_weights
from ssm_train import rng
from ssm_train.checkpoint import load_latest
from ssm_train.device import is_main, make_accelerator, set_threads
from ssm_train.display import Display
from ssm_train.environment import environment
from ssm_train.errors import TrainingFailed
from ssm_train.finish import finish
from ssm_train.interrupt import listening
from ssm_train.loop import Trainer
from ssm_train.optimizer import groups_table, parameter_count

CHANGEABLE = {
    "epochs",
    "steps",
    "device",
    "threads",
    "tracker",
    "eval_every",
    "checkpoint_every",
    "keep",
}
"""Settings of ``train`` that a resumed run may change; the rest would make it another run."""


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


def fit(
    config: RunConfig | Mapping[str, Any],
    task: Task | None = None,
    model: nn.Module | None = None,
    *,
    out: Path | str = "runs",
    init_from: Path | str | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model and return its run folder.

    Args:
        config: The run, or a plain tree of settings (``{"backbone": {"name": "s5"}, "train": {"epochs": 3}}``).
        task: One's own task, instead of the configuration's.
        model: One's own module, instead of a backbone; the task's ``run`` calls it.
        out: Folder under which the run folder is made.
        init_from: Run folder whose best weights to start from.
        quiet: Print nothing.

    Returns:
        The run folder's absolute path.

    Raises:
        UserError: If the configuration cannot work.
        TrainingFailed: If the run stopped before its end.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.from_tree(layered(config))
    with Display(quiet or not is_main()) as display:
        task = _prepared(config, task, display)
        accelerator, bound = _build(config, task, model, display)
        if init_from is not None:
            load_weights(bound, RunFolder.open(init_from).checkpoint("best") / "model.safetensors")
        run = _new_folder(out, config, accelerator)
        trainer = Trainer(config, task, bound, accelerator, run, display)
        return _run(trainer, config, task, run, display)


def resume(
    run: Path | str,
    changes: Mapping[str, Any] | None = None,
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
    quiet: bool = False,
) -> Path:
    """Go on with a run from its newest intact checkpoint, bit for bit on a CPU.

    Args:
        run: The run folder.
        changes: Settings of ``train`` to change: length, device, tracker, intervals.
        task: One's own task, if the run was made with one.
        model: One's own module, likewise.
        quiet: Print nothing.

    Returns:
        The run folder's absolute path.

    Raises:
        UserError: If there is nothing to resume, or a change would make it another run.
        TrainingFailed: If the run stopped before its end again.
    """
    folder = RunFolder.open(run)
    refused = sorted(set(changes or {}) - CHANGEABLE)
    if refused:
        raise ConfigError(
            f"--resume cannot change {', '.join(f'train.{name}' for name in refused)}",
            f"it may change {', '.join(sorted(CHANGEABLE))}; "
            f"for another run, begin with --config {folder.path}/config.json",
        )
    config = RunConfig.from_tree(layered(folder.config_tree(), {"train": dict(changes or {})}))
    with Display(quiet or not is_main()) as display:
        task = _prepared(config, task, display)
        accelerator, bound = _build(config, task, model, display)
        checkpoint, notices = load_latest(folder)
        for notice in notices:
            display.say(notice)
        trainer = Trainer(config, task, bound, accelerator, folder, display)
        if checkpoint.step >= trainer.plan.total and folder.status().get("state") == "finished":
            raise UserError(
                f"{folder.path} has finished its {trainer.plan.total} steps",
                "add --epochs N or --steps N to go on",
            )
        trainer.restore(checkpoint)
        if accelerator.is_main_process:
            write_json(folder.path / "config.json", config.to_tree())
        display.say(f"resuming after step {checkpoint.step} of {trainer.plan.total}")
        return _run(trainer, config, task, folder, display)


def describe(config: RunConfig) -> str:
    """Return a text about the model a run would train: nesting, parameters, optimiser groups. Makes no data."""
    from rich.console import Console

    model = build_for_task(config, _task_of(config))
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


def _task_of(config: RunConfig) -> Task:
    if config.task is None:
        raise ConfigError("the run names no task", "add --task NAME")
    return registry.builder("task", config.task.name)[1](config.task.config)


def _prepared(config: RunConfig, task: Task | None, display: Display) -> Task:
    task = _task_of(config) if task is None else task
    if task.needs.carry_state:
        raise ConfigError(
            "the task carries state from batch to batch, and this loop does not", "use a task with whole rows"
        )
    task.prepare(display.progress)
    return task


def _build(
    config: RunConfig, task: Task, model: nn.Module | None, display: Display
) -> tuple[Accelerator, nn.Module]:
    set_threads(config.train.threads)
    accelerator = make_accelerator(config.train)
    rng.seed_everything(config.seed)
    bound = build_for_task(config, task) if model is None else Bound(model, task)
    bound.to(accelerator.device)
    # The same weights everywhere, but dropout of its own in each process.
    rng.seed_everything(config.seed + accelerator.process_index)
    display.say(summary(config, bound))
    display.say(groups_table(bound, config.optim))
    return accelerator, bound


def _new_folder(out: Path | str, config: RunConfig, accelerator: Accelerator) -> RunFolder:
    path: list[Any] = [None]
    if accelerator.is_main_process:
        run = RunFolder.create(out, config)
        write_json(run.path / "env.json", environment(accelerator.device))
        path = [str(run.path)]
    if accelerator.num_processes > 1:
        broadcast_object_list(path)
    return RunFolder(path[0])


def _run(trainer: Trainer, config: RunConfig, task: Task, run: RunFolder, display: Display) -> Path:
    """Train, then test and draw; whatever ends a run early is written to its status."""
    main = trainer.accelerator.is_main_process
    if main:
        run.write_status("running", step=trainer.step, total=trainer.plan.total)
    try:
        with listening() as interrupt, _deterministic(config.train.deterministic):
            trainer.fit(interrupt)
            finish(trainer, config, task, run, display)
    except TrainingFailed:
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        if main:
            with contextlib.suppress(UserError):  # a full disk must not hide the error itself
                run.write_status("failed", step=trainer.step, total=trainer.plan.total, reason=reason)
        raise
    if main:
        run.write_status("finished", step=trainer.step, total=trainer.plan.total)
    return run.path


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    if wanted:
        torch.use_deterministic_algorithms(True)
        options.fill_uninitialized_memory = False  # costs time and changes no result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        options.fill_uninitialized_memory = before[1]
