"""The loop: batches in, steps, evaluations and checkpoints out. Reads from top to bottom."""

from __future__ import annotations

import math
import time
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from ssm_core.protocols import Task
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.evaluation import evaluate
from ssm_train import checkpoint as checkpoints
from ssm_train import errors, snapshot
from ssm_train.batches import BatchPlan
from ssm_train.display import Display, figures
from ssm_train.errors import TrainingFailed
from ssm_train.feed import Counts, Feed, shares
from ssm_train.interrupt import Interrupt
from ssm_train.observe import observing
from ssm_train.optimizer import NamedAdamW
from ssm_train.record import Recorder
from ssm_train.schedule import Plateau, lr_factor
from ssm_train.steps import Slice, Steps


class Trainer:
    """One run in one process (of several).

    Args:
        config: The resolved run.
        task: The problem, its data prepared.
        model: The model, on its device.
        accelerator: Device, precision, processes.
        run: The run folder.
        display: What the person sees; silent in all processes but the first.
        plan: Which rows make up which batch.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: nn.Module,
        accelerator: Accelerator,
        run: RunFolder,
        display: Display,
        plan: BatchPlan,
    ) -> None:
        self.config, self.task, self.run, self.display = config, task, run, display
        self.accelerator = accelerator
        self.bare = model
        self.splits = task.splits()
        self.feed = Feed(task, self.splits["train"], accelerator.device, config.train.workers)
        self.optimizer = NamedAdamW(model, config.optim)
        self.steps = Steps(config.train, task, model, accelerator, self.optimizer, self.feed)
        self.plateau = Plateau(config.optim)
        self.plan = plan
        self.step = 0
        self.wall = 0.0
        self.best: dict[str, Any] | None = None
        self.validated = 0
        self.saved = -1
        self.recent: dict[str, float] = {}
        self.empty = 0

    def fit(self, interrupt: Interrupt) -> None:
        """Train to the end of the plan, or until validation has not got better for ``train.patience`` epochs.

        Raises:
            RunInterrupted: When a signal came; a checkpoint is saved first.
            TrainingFailed: When a value is not finite.
        """
        with self.feed.following(self.steps.share.coming(self.plan, self.step)):
            self._fit(interrupt)

    def _fit(self, interrupt: Interrupt) -> None:
        main = self.accelerator.is_main_process
        recorder = Recorder(self.run, self.config.train.tracker, self.wall) if main else None
        if recorder is not None and self.step:
            recorder.resumed(self.step, self.plan.epoch(self.step - 1))
        try:
            while self.step < self.plan.total and not self.stopped:
                self._train_step(recorder)
                self._after_step(recorder)
                if self._interrupted(interrupt):
                    self._stop(interrupt.name or "a signal", recorder)
            if self.stopped and recorder is not None:
                self.display.say(self.stopped)
                recorder.log(self.stopped)
        finally:
            if recorder is not None:
                self.wall = recorder.wall
                recorder.close()

    @property
    def stopped(self) -> str:
        """Why the run ends before its plan does; empty if it does not."""
        patience = self.config.train.patience
        if not (patience and self.best) or self.step >= self.plan.total:
            return ""
        if self.validated - self.best["step"] < patience * self.plan.steps_per_epoch:
            return ""
        metric = f"validation {self.task.primary[0]} has not got better"
        return f"stopped early after step {self.step}: {metric} for {patience} epochs (train.patience)"

    def _train_step(self, recorder: Recorder | None) -> None:
        began = time.perf_counter()
        epoch, place = divmod(self.step, self.plan.steps_per_epoch)
        rows = self.plan.indices(self.step)
        factor = lr_factor(self.step, self.plan.total, self.plan.steps_per_epoch, self.config.optim)
        factor *= self.plateau.factor
        self.optimizer.set_factor(factor)
        taken = self.steps.take(rows, epoch, begins=place == 0)
        if not taken.finite:
            self._not_finite(rows, taken.slices, taken.loss, recorder)
        values = {"loss": taken.loss, "grad_norm": taken.norm, "lr": self.config.optim.lr * factor}
        if taken.empty:
            self.empty += 1
            del values["loss"], values["grad_norm"]
        if recorder is not None:
            recorder.metrics(self.step + 1, epoch, "train", values)
        self.recent |= {"loss": values["loss"]} if "loss" in values else {}
        self.step += 1
        self.feed.counts.spent += time.perf_counter() - began

    def _after_step(self, recorder: Recorder | None) -> None:
        """Evaluate and save where the plan says so; keep the bar and the heartbeat going."""
        train, end = self.config.train, self.step == self.plan.total
        epoch, place = divmod(self.step, self.plan.steps_per_epoch)
        evaluates = end or (place == 0 and epoch % train.eval_every == 0)
        if end or place == 0:
            self._record_shares(recorder, begin=place == 0)
            self._record_empty(recorder)
        if evaluates and "validation" in self.splits:
            self._validate(recorder)
        elif evaluates or (train.checkpoint_every and self.step % train.checkpoint_every == 0):
            self.save(recorder)
        if recorder is not None:
            name = f"epoch {min(epoch + 1, -(-self.plan.total // self.plan.steps_per_epoch))}"
            self.display.bar("training", self.step, self.plan.total, f"{name}  {figures(self.recent)}")
            recorder.beat(step=self.step, total=self.plan.total, **self.recent)

    def _record_shares(self, recorder: Recorder | None, *, begin: bool) -> None:
        """Record what part of an epoch was spent waiting for batches, and what part of these was padding."""
        found = shares(self.steps.sum(self.feed.counts.tensor().to(self.accelerator.device)))
        if begin:
            self.feed.counts = Counts()
        if recorder is not None:
            recorder.metrics(self.step, self.plan.epoch(self.step - 1), "train", found)

    def _record_empty(self, recorder: Recorder | None) -> None:
        """Record how many of an epoch's steps had no target. If all of a whole or of the first one, it is an error."""
        done = (self.step - 1) % self.plan.steps_per_epoch + 1
        epoch, empty = self.plan.epoch(self.step - 1), self.empty
        if done == self.plan.steps_per_epoch:
            self.empty = 0
        if empty == done and done in (self.step, self.plan.steps_per_epoch):
            self._end(errors.no_target(self.run.path, epoch + 1, done), recorder)
        if empty and recorder is not None:
            recorder.metrics(self.step, epoch, "train", {"empty_steps": empty})
            line = f"epoch {epoch + 1:3d}  {empty} of {done} steps had no target, and were skipped"
            self.display.say(line)
            recorder.log(line)

    def _validate(self, recorder: Recorder | None) -> None:
        with observing(self.bare) as observed:
            result = evaluate(
                self.bare,
                self.task,
                self.splits["validation"],
                batch_size=self.config.train.eval_batch_size,
                device=self.accelerator.device,
                precision=self.config.train.precision,
            )
        name, direction = self.task.primary
        value = result.metrics[name]
        better = _better(value, None if self.best is None else self.best["value"], direction)
        if better:
            self.best = checkpoints.pointer(self.run, self.step, name, value)
        self.validated = self.step
        falls = self.plateau.validated(self.step, self.plan.steps_per_epoch, better=better)
        epoch = self.plan.epoch(self.step - 1)
        if recorder is not None:
            recorder.metrics(self.step, epoch, "validation", {**result.metrics, **observed})
            loss = f"training loss {self.recent.get('loss', math.nan):.4g}"
            mark = _mark(name, value, better=better, falls=falls)
            line = f"epoch {epoch + 1:3d}  {loss}  validation {figures(result.metrics)}{mark}"
            self.display.say(line)
            recorder.log(line)
        self.recent[f"val {name}"] = value
        self.save(recorder, value)

    def save(self, recorder: Recorder | None, value: float | None = None) -> None:
        """Write a checkpoint of this very step (all processes take part, the first one writes)."""
        if self.saved == self.step:
            return
        self.saved = self.step
        checkpoint = snapshot.take(self, value, 0.0 if recorder is None else recorder.wall)
        if checkpoint is not None:
            checkpoints.save(self.run, checkpoint, keep=self.config.train.keep)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go on from a checkpoint exactly as if the run had never stopped.

        Raises:
            UserError: If it does not fit the model, or holds the streams of another number of processes.
        """
        snapshot.put_back(self, checkpoint)
        if self.accelerator.is_main_process:
            checkpoints.write_pointers(self.run, {**checkpoint.state, "best": self.best})

    def _interrupted(self, interrupt: Interrupt) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(interrupt)
        # A signal may reach one process only; all have to leave the loop at the same step.
        return bool(self.steps.sum(torch.tensor(float(bool(interrupt)), device=self.accelerator.device)))

    def _stop(self, signal: str, recorder: Recorder | None) -> None:
        """Save and leave, the run marked as one that can go on."""
        self.save(recorder)
        self._end(errors.interrupted(self.run.path, signal, self.step, self.plan.total), recorder)

    def _not_finite(
        self, rows: list[int], slices: list[Slice], loss: float, recorder: Recorder | None
    ) -> None:
        epoch, place = divmod(self.step, self.plan.steps_per_epoch)
        cause = self.steps.cause(slices, epoch)
        what, where = f"loss {loss:g}; {cause}", (epoch + 1, place + 1)
        self._end(errors.not_finite(self.run.path, self.step + 1, where, rows, what), recorder)

    def _end(self, ending: TrainingFailed, recorder: Recorder | None) -> NoReturn:
        if self.accelerator.is_main_process:
            self.run.write_status(ending.state, step=self.step, total=self.plan.total, reason=str(ending))
            if recorder is not None:
                recorder.log(str(ending))
        raise ending


def _mark(name: str, value: float, *, better: bool, falls: bool) -> str:
    """Return what an evaluation's line says of its meaning for the run."""
    if math.isnan(value):
        said = f"  (warning: {name} is not a number, and selects no checkpoint)"
        return said + ("  (a plateau: the rate falls)" if falls else "")
    return "  (best so far)" if better else "  (a plateau: the rate falls)" if falls else ""


def _better(value: float, before: float | None, direction: str) -> bool:
    """Say whether a metric is better than the best before it; one that is NaN is better than nothing alone."""
    if before is None or math.isnan(before):
        return before is None or not math.isnan(value)
    return value < before if direction == "min" else value > before
