"""One optimiser step: slices of a batch forward and backward, gradients made those of the mean, and clipped."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ssm_core.protocols import State, Task
from ssm_core.run.config import TrainConfig
from ssm_train.carry import Carried
from ssm_train.feed import Feed, Share
from ssm_train.finite import diagnose
from ssm_train.optimizer import NamedAdamW


class Slice(NamedTuple):
    """A part of a batch that was worked through at once.

    Attributes:
        rows: Its rows.
        total: Its summed loss.
        state: The state that it began with.
    """

    rows: list[int]
    total: Tensor
    state: State | None


class Taken(NamedTuple):
    """What a step gave.

    Attributes:
        loss: Mean loss of the batch, over all slices and processes.
        norm: Norm of the whole gradient, before clipping.
        finite: Whether the step was taken: both are finite, or the norm is the scaler's affair.
        slices: This process's slices.
        empty: Whether the batch had no target in any slice or process. It has no mean, so that loss and norm are NaN,
            and nothing to learn from: weights, moments and decay are left alone.
    """

    loss: float
    norm: float
    finite: bool
    slices: list[Slice]
    empty: bool = False


class Steps:
    """Takes steps.

    Args:
        config: Slices, precision, clipping.
        task: Loss of a batch; whether state goes from one to the next.
        model: The model, on its device.
        accelerator: Device, precision, processes.
        optimizer: Its groups and state.
        feed: The training split as batches.

    Attributes:
        carried: The states that the next step goes on from.
        share: This process's part of a batch, and its slices.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        model: nn.Module,
        accelerator: Accelerator,
        optimizer: NamedAdamW,
        feed: Feed,
    ) -> None:
        self.config, self.task, self.accelerator, self.feed = config, task, accelerator, feed
        self.bare = model
        self.model: nn.Module = accelerator.prepare(model)
        self.adamw = accelerator.prepare(optimizer.adamw)
        self.carried = Carried()
        self.share = Share(config.accumulate, accelerator.process_index, accelerator.num_processes)

    def take(self, rows: list[int], epoch: int, *, begins: bool) -> Taken:
        """Take a step on rows of an epoch; if that begins with them, without a state from before."""
        if begins:
            self.carried.drop()
        self.model.train()
        self.adamw.zero_grad()
        total, weight, slices = self._backward(rows, epoch)
        # Sums over every slice and process, so that each element counts the same however the batch was cut.
        total, weight = self.sum(torch.stack([total, weight])).unbind()
        if not bool(weight) and bool(torch.isfinite(total)):
            return Taken(math.nan, math.nan, True, slices, empty=True)
        norm = self._finish_gradients(len(rows), weight)
        fp16 = self.config.precision == "fp16"  # its scaler skips overflowing steps by itself
        finite = bool(torch.isfinite(total)) and (fp16 or bool(torch.isfinite(norm)))
        if finite:
            self.adamw.step()
        return Taken(float(total / weight), float(norm), finite, slices)

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over the processes."""
        return cast("Tensor", self.accelerator.reduce(value, "sum"))

    def cause(self, slices: list[Slice], epoch: int) -> str:
        """Name the tensor at fault in the slice and process where the loss first went wrong, or in any."""
        bad = [part for part in slices if not bool(torch.isfinite(part.total))]
        part = (bad or slices)[0]
        batch = self.feed.again(part.rows, epoch)
        with torch.no_grad():
            output = self.bare(batch) if part.state is None else self.bare(batch, part.state)
        found = (not bad, diagnose(self.bare, batch, part.rows, output))
        return min(gather_object([found]), key=lambda item: item[0])[1]

    def _backward(self, rows: list[int], epoch: int) -> tuple[Tensor, Tensor, list[Slice]]:
        """Run this process's slices of a batch forward and backward; gradients are of sum / rows.

        Returns:
            Summed loss, summed weight, and the slices.
        """
        parts = self.share.of(rows)
        total = torch.zeros((), device=self.accelerator.device)
        weight = torch.zeros_like(total)
        slices: list[Slice] = []
        for index, part in enumerate(parts):
            batch, state = self.feed.next(part, epoch), self.carried.get(index)
            wait = index + 1 < len(parts)
            with self.accelerator.no_sync(self.model) if wait else nullcontext():
                with self.accelerator.autocast():
                    output = self.model(batch) if state is None else self.model(batch, state)
                loss = self.task.loss(output, batch)
                self.accelerator.backward(loss.total / len(rows))
            if self.task.needs.carry_state:
                self.carried.keep(index, output.state)
            total, weight = total + loss.total.detach(), weight + loss.weight.detach()
            slices.append(Slice(part, loss.total.detach(), state))
        return total, weight, slices

    def _finish_gradients(self, rows: int, weight: Tensor) -> Tensor:
        """Turn gradients of sum / rows, averaged over processes, into those of the mean; clip; return the norm."""
        if self.config.precision == "fp16":
            self.accelerator.unscale_gradients(self.adamw)
        gradients = [p.grad for p in self.bare.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, rows * self.accelerator.num_processes / weight)
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(self.bare.parameters(), self.config.clip_norm, norm)
        return norm
