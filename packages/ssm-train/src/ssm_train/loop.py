"""The loop: batches in, steps, evaluations and checkpoints out. Reads from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ssm_core.protocols import Batch, Task
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_eval.evaluation import evaluate
from ssm_train import checkpoint as checkpoints
from ssm_train import rng
from ssm_train.batches import BatchPlan
from ssm_train.display import Display, figures
from ssm_train.errors import TrainingFailed
from ssm_train.finite import diagnose
from ssm_train.interrupt import Interrupt
from ssm_train.optimizer import NamedAdamW
from ssm_train.record import Recorder
from ssm_train.schedule import lr_factor


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
        self.optimizer = NamedAdamW(model, config.optim)
        self.model: nn.Module = accelerator.prepare(model)
        self.adamw = accelerator.prepare(self.optimizer.adamw)
        self.splits = task.splits()
        self.plan = plan
        self.step = 0
        self.wall = 0.0
        self.best: dict[str, Any] | None = None
        self.saved = -1
        self.recent: dict[str, float] = {}

    def fit(self, interrupt: Interrupt) -> None:
        """Train to the end of the plan.

        Raises:
            TrainingFailed: When interrupted (a checkpoint is saved first), or when a value is not finite.
        """
        main = self.accelerator.is_main_process
        recorder = Recorder(self.run, self.config.train.tracker, self.wall) if main else None
        if recorder is not None and self.step:
            recorder.resumed(self.step, self.plan.epoch(self.step - 1))
        try:
            while self.step < self.plan.total:
                self._train_step(recorder)
                self._after_step(recorder)
                if self._interrupted(interrupt):
                    self._stop(interrupt.name or "a signal", recorder)
        finally:
            if recorder is not None:
                self.wall = recorder.wall
                recorder.close()

    def _train_step(self, recorder: Recorder | None) -> None:
        rows = self.plan.indices(self.step)
        factor = lr_factor(self.step, self.plan.total, self.plan.steps_per_epoch, self.config.optim)
        self.optimizer.set_factor(factor)
        self.model.train()
        self.adamw.zero_grad()
        total, weight, slices = self._backward(rows)
        # Sums over every slice and process, so that each element counts the same however the batch was cut.
        total, weight = self._sum(torch.stack([total, weight])).unbind()
        norm = self._finish_gradients(len(rows), weight)
        loss = float(total / weight)
        fp16 = self.config.train.precision == "fp16"  # its scaler skips overflowing steps by itself
        if not (torch.isfinite(total) and (fp16 or torch.isfinite(norm))):
            self._not_finite(rows, slices, loss, recorder)
        self.adamw.step()
        values = {"loss": loss, "grad_norm": float(norm), "lr": self.config.optim.lr * factor}
        if recorder is not None:
            recorder.metrics(self.step + 1, self.plan.epoch(self.step), "train", values)
        self.recent["loss"] = loss
        self.step += 1

    def _backward(self, rows: list[int]) -> tuple[Tensor, Tensor, list[tuple[list[int], Tensor]]]:
        """Run this process's slices of a batch forward and backward; gradients are of sum / rows.

        Returns:
            Summed loss, summed weight, and rows and loss of each slice.
        """
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        count = self.config.train.accumulate
        parts = [mine[i::count] for i in range(count) if mine[i::count]]
        total = torch.zeros((), device=self.accelerator.device)
        weight = torch.zeros_like(total)
        slices: list[tuple[list[int], Tensor]] = []
        for index, part in enumerate(parts):
            batch = self._batch(part)
            wait = index + 1 < len(parts)
            with self.accelerator.no_sync(self.model) if wait else nullcontext():
                with self.accelerator.autocast():
                    output = self.model(batch)
                loss = self.task.loss(output, batch)
                self.accelerator.backward(loss.total / len(rows))
            total, weight = total + loss.total.detach(), weight + loss.weight.detach()
            slices.append((part, loss.total.detach()))
        return total, weight, slices

    def _batch(self, rows: list[int]) -> Batch:
        return self.task.collate([self.splits["train"][row] for row in rows]).to(self.accelerator.device)

    def _finish_gradients(self, rows: int, weight: Tensor) -> Tensor:
        """Turn gradients of sum / rows, averaged over processes, into those of the mean; clip; return the norm."""
        if self.config.train.precision == "fp16":
            self.accelerator.unscale_gradients(self.adamw)
        gradients = [p.grad for p in self.bare.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, rows * self.accelerator.num_processes / weight)
        norm = nn.utils.get_total_norm(gradients)
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.bare.parameters(), self.config.train.clip_norm, norm)
        return norm

    def _after_step(self, recorder: Recorder | None) -> None:
        """Evaluate and save where the plan says so; keep the bar and the heartbeat going."""
        train, end = self.config.train, self.step == self.plan.total
        epoch, place = divmod(self.step, self.plan.steps_per_epoch)
        evaluates = end or (place == 0 and epoch % train.eval_every == 0)
        if evaluates and "validation" in self.splits:
            self._validate(recorder)
        elif evaluates or (train.checkpoint_every and self.step % train.checkpoint_every == 0):
            self.save(recorder)
        if recorder is not None:
            name = f"epoch {min(epoch + 1, -(-self.plan.total // self.plan.steps_per_epoch))}"
            self.display.bar("training", self.step, self.plan.total, f"{name}  {figures(self.recent)}")
            recorder.beat(step=self.step, total=self.plan.total, **self.recent)

    def _validate(self, recorder: Recorder | None) -> None:
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
        before = math.nan if self.best is None else self.best["value"]
        better = math.isnan(before) or (value < before if direction == "min" else value > before)
        if better:
            self.best = checkpoints.pointer(self.run, self.step, name, value)
        epoch = self.plan.epoch(self.step - 1)
        if recorder is not None:
            recorder.metrics(self.step, epoch, "validation", result.metrics)
            mark = "  (best so far)" if better else ""
            loss = f"training loss {self.recent['loss']:.4g}"
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
        tensors, plain = rng.capture()
        parts = gather_object([{str(self.accelerator.process_index): (tensors, plain)}])
        if recorder is None:
            return
        states = {rank: state for part in parts for rank, state in part.items()}
        checkpoint = checkpoints.Checkpoint(
            step=self.step,
            model=self.bare.state_dict(),
            optimizer=self.optimizer.tensors(),
            rng={f"{rank}/{key}": t for rank, (ts, _) in states.items() for key, t in ts.items()},
            state={
                "rng": {rank: plain for rank, (_, plain) in states.items()},
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
                "latest": checkpoints.pointer(self.run, self.step, self.task.primary[0], value),
                "best": self.best,
                "wall": recorder.wall,
                "recent": self.recent,
            },
        )
        checkpoints.save(self.run, checkpoint, keep=self.config.train.keep)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go on from a checkpoint exactly as if the run had never stopped."""
        self.bare.load_state_dict(checkpoint.model)
        self.optimizer.load(checkpoint.optimizer)
        state: Mapping[str, Any] = checkpoint.state
        rank = str(self.accelerator.process_index)
        if rank in state["rng"]:
            own = {
                key.partition("/")[2]: t for key, t in checkpoint.rng.items() if key.startswith(f"{rank}/")
            }
            rng.restore(own, state["rng"][rank])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.wall = checkpoint.step, state["best"], state["wall"]
        self.recent, self.saved = dict(state["recent"]), checkpoint.step
        if self.accelerator.is_main_process:
            checkpoints.write_pointers(self.run, state)

    def _interrupted(self, interrupt: Interrupt) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(interrupt)
        # A signal may reach one process only; all have to leave the loop at the same step.
        return bool(self._sum(torch.tensor(float(bool(interrupt)), device=self.accelerator.device)))

    def _sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over the processes."""
        return cast("Tensor", self.accelerator.reduce(value, "sum"))

    def _stop(self, signal: str, recorder: Recorder | None) -> None:
        """Save and leave, the run marked as one that can go on."""
        self.save(recorder)
        message = f"interrupted by {signal} after step {self.step} of {self.plan.total}; everything is saved"
        self._fail(f"{message}\n  go on with --resume {self.run.path}", recorder)

    def _not_finite(
        self, rows: list[int], slices: list[tuple[list[int], Tensor]], loss: float, recorder: Recorder | None
    ) -> None:
        epoch, place = divmod(self.step, self.plan.steps_per_epoch)
        cause = self._cause(slices)
        latest = self.run.path / "latest.json"
        kept = "the last good checkpoint is kept" if latest.is_file() else "no checkpoint had been saved yet"
        shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        self._fail(
            f"step {self.step + 1} (epoch {epoch + 1}, batch {place + 1}, rows {shown}) is not finite: "
            f"loss {loss:g}; {cause}\n  {kept}; try a lower optim.lr or train.clip_norm=1",
            recorder,
        )

    def _cause(self, slices: list[tuple[list[int], Tensor]]) -> str:
        """Name the tensor at fault in the slice and process where the loss first went wrong, or in any."""
        bad = [part for part, total in slices if not bool(torch.isfinite(total))]
        part = (bad or [part for part, _ in slices])[0]
        batch = self._batch(part)
        with torch.no_grad():
            output = self.bare(batch)
        found = (not bad, diagnose(self.bare, batch, part, output))
        return min(gather_object([found]), key=lambda item: item[0])[1]

    def _fail(self, message: str, recorder: Recorder | None) -> None:
        if self.accelerator.is_main_process:
            self.run.write_status("failed", step=self.step, total=self.plan.total, reason=message)
            if recorder is not None:
                recorder.log(message)
        raise TrainingFailed(message, self.run.path)
