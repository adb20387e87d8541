"""A run from its configuration to its pictures; what ``ssm train`` calls."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Task
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.data import data_of
from ssm_core.run.folder import RunFolder, write_json
from ssm_core.run.load import account, start_from
from ssm_train import setup
from ssm_train.checkpoint import load_latest
from ssm_train.device import is_main
from ssm_train.display import Display
from ssm_train.errors import RunInterrupted, TrainingFailed, cut_short
from ssm_train.finish import draw, finish
from ssm_train.interrupt import listening
from ssm_train.lock import training_alone
from ssm_train.loop import Trainer
from ssm_train.made import changed_classes, made_of

CHANGEABLE = {
    "epochs",
    "steps",
    "device",
    "threads",
    "workers",
    "tracker",
    "eval_every",
    "patience",
    "checkpoint_every",
    "keep",
}
"""Settings of ``train`` that a resumed run may change; the rest would make it another run."""


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
    source = None if init_from is None else RunFolder.open(init_from).checkpoint("best")
    with Display(quiet or not is_main()) as display:
        accelerator, task = setup.prepared(config, task, model, display, out)
        bound = setup.build(config, task, model, accelerator, display)
        if source is not None:
            new = start_from(bound, source / "model.safetensors")
            display.say(f"weights of {source}" + (f"; {account(bound, new)}" if new else ""))
        plan = setup.plan_batches(config, task, accelerator)
        run = setup.new_folder(out, config, accelerator, source, made_of(bound, task, plan))
        with training_alone(run):
            if accelerator.is_main_process:
                run.write_data(data_of(task))
            trainer = Trainer(config, task, bound, accelerator, run, display, plan)
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
        changes: Settings of ``train`` to change, of those in :data:`CHANGEABLE`.
        task: One's own task, if the run was made with one.
        model: One's own module, likewise.
        quiet: Print nothing.

    Returns:
        The run folder's absolute path.

    Raises:
        UserError: If there is nothing to resume, another process is at it, or a change, or other data, would make it
            another run.
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
    with training_alone(folder), Display(quiet or not is_main()) as display:
        checkpoint, notices = load_latest(folder)
        notices += setup.changed_plugins(folder, config)
        for notice in notices:
            display.say(notice)
        accelerator, task = setup.prepared(config, task, model, display)
        setup.check_data(folder, task)
        bound = setup.build(config, task, model, accelerator, display)
        plan = setup.plan_batches(config, task, accelerator)
        _check_length(folder, checkpoint.step, plan.total)
        for notice in changed_classes(folder.env().get("made", {}), made_of(bound, task, plan)):
            display.say(notice)
        trainer = Trainer(config, task, bound, accelerator, folder, display, plan)
        trainer.restore(checkpoint)
        _check_unfinished(trainer, folder)
        display.say(f"resuming after step {checkpoint.step} of {trainer.plan.total}")
        return _run(trainer, config, task, folder, display)


def _check_length(run: RunFolder, step: int, total: int) -> None:
    if step > total:
        raise UserError(
            f"{run.path} has taken {step} steps already, and is asked to end after {total}",
            "give it a longer --epochs or --steps; `ssm eval` tests it as it is",
        )


def _check_unfinished(trainer: Trainer, folder: RunFolder) -> None:
    if folder.status().get("state") != "finished":
        return
    if trainer.stopped:
        raise UserError(f"{folder.path} {trainer.stopped}", "raise train.patience, or set it to 0, to go on")
    if trainer.step >= trainer.plan.total:
        raise UserError(
            f"{folder.path} has finished its {trainer.plan.total} steps",
            "add --epochs N or --steps N to go on",
        )


def _run(trainer: Trainer, config: RunConfig, task: Task, run: RunFolder, display: Display) -> Path:
    """Train, then test and draw; whatever ends a run early is written to its status.

    Raises:
        TrainingFailed: Whatever went wrong, so that the caller learns of the run folder.
    """
    main = trainer.accelerator.is_main_process
    try:
        if main:
            write_json(run.path / "config.json", config.to_tree())  # a resume may have changed the length
            run.write_status("running", step=trainer.step, total=trainer.plan.total)
        with listening() as interrupt, _deterministic(config.train.deterministic):
            trainer.fit(interrupt)
            tested = finish(trainer, config, task, run, display)
            if main:
                early = {"reason": trainer.stopped} if trainer.stopped else {}
                run.write_status("finished", step=trainer.step, total=trainer.plan.total, **early)
            if tested is not None:
                draw(task, run, tested, display)
    except TrainingFailed:
        raise
    except KeyboardInterrupt as error:
        raise _cut_short(trainer, run) from error
    except BaseException as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if main:
            with contextlib.suppress(UserError, OSError):  # a full disk must not hide the error itself
                run.write_status("failed", step=trainer.step, total=trainer.plan.total, reason=reason)
                with (run.path / "log.txt").open("a", encoding="utf-8") as log:
                    log.write("".join(traceback.format_exception(error)))
        if not isinstance(error, Exception):
            raise
        where = "" if isinstance(error, UserError) else f"\n  the traceback is in {run.path / 'log.txt'}"
        raise TrainingFailed(f"{reason}{where}", run.path) from error
    return run.path


def _cut_short(trainer: Trainer, run: RunFolder) -> RunInterrupted:
    """Note that a second signal ended a run at once; return what to raise."""
    ending = cut_short(run.path, trainer.step, trainer.plan.total)
    if trainer.accelerator.is_main_process:
        with contextlib.suppress(UserError, OSError):
            run.write_status(ending.state, step=trainer.step, total=trainer.plan.total, reason=str(ending))
    return ending


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
