"""From row numbers to batches on the device, counting what is waited for and what is padding."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass

import torch
from torch import Tensor

from ssm_core.protocols import Batch, Split, Task
from ssm_train.ahead import Ahead, Reader, Wanted
from ssm_train.batches import BatchPlan


@dataclass
class Counts:
    """What an epoch's batches cost.

    Attributes:
        waited: Seconds that batches were waited for.
        spent: Seconds of the steps, waiting included.
        padded: Elements that were padding.
        elements: All elements.
        masked: Number of batches that had a mask.

    Inputs beside those of the batch count as well: a second tower's, ``inputs_2`` with ``mask_2`` in its extra.
    """

    waited: float = 0.0
    spent: float = 0.0
    padded: int = 0
    elements: int = 0
    masked: int = 0

    def tensor(self) -> Tensor:
        """Return them as float64 (5,), to be added up over processes."""
        return torch.tensor(astuple(self), dtype=torch.float64)

    def state(self) -> dict[str, float]:
        """Return them as plain data."""
        return asdict(self)


def shares(counts: Tensor) -> dict[str, float]:
    """Return the metrics of :meth:`Counts.tensor`: ``wait_share``, and ``padding`` if there were masks."""
    waited, spent, padded, elements, masked = counts.tolist()
    found = {"wait_share": waited / spent} if spent else {}
    return {**found, **({"padding": padded / elements} if masked and elements else {})}


@dataclass(frozen=True)
class Share:
    """What one process works through of each step's batch.

    Attributes:
        slices: Slices a batch is worked through in.
        process: Number of the process.
        processes: How many there are.
    """

    slices: int = 1
    process: int = 0
    processes: int = 1

    def of(self, rows: Sequence[int]) -> list[list[int]]:
        """Return the slices of a batch's rows that are this process's, in their order; none is empty."""
        mine = list(rows[self.process :: self.processes])
        return [part for i in range(self.slices) if (part := mine[i :: self.slices])]

    def coming(self, plan: BatchPlan, step: int) -> Iterator[Wanted]:
        """Yield all slices from a step, counted from 0, to the end of a plan."""
        for later in range(step, plan.total):
            for part in self.of(plan.indices(later)):
                yield Wanted(plan.epoch(later), part)


class Feed:
    """The training split as batches on the device.

    What is read has to follow from epoch and rows alone: workers share no random state with the training process.

    Args:
        task: Collates rows.
        split: The training split. If it has a method ``of_epoch(epoch)``, that gives the split of an epoch, with as
            many rows; the one given is that of the first.
        device: Where batches go.
        workers: Processes that read ahead; none reads here, when a batch is asked for.

    Attributes:
        counts: What the batches of the epoch so far cost.
    """

    def __init__(self, task: Task, split: Split, device: torch.device, workers: int = 0) -> None:
        self.device, self.workers = device, workers
        self.counts = Counts()
        self._reader = Reader(task, split)
        self._ahead: Ahead | None = None

    @contextmanager
    def following(self, order: Iterable[Wanted]) -> Iterator[None]:
        """Let the workers read ahead while the block runs; they are gone when it ends, in whatever way.

        Args:
            order: All batches that :meth:`next` will be asked for, in their order.
        """
        self._ahead = Ahead(self._reader, order, self.workers) if self.workers else None
        try:
            yield
        finally:
            if self._ahead is not None:
                self._ahead.close()
                self._ahead = None

    def next(self, rows: Sequence[int], epoch: int) -> Batch:
        """Return rows of an epoch, together: the next batch of the order that is followed.

        Raises:
            UserError: If the task cannot read them.
        """
        began = time.perf_counter()
        wanted = Wanted(epoch, list(rows))
        batch = self._reader.read(wanted) if self._ahead is None else self._ahead.take(wanted)
        self._measure(batch)
        batch = batch.to(self.device)
        self.counts.waited += time.perf_counter() - began
        return batch

    def again(self, rows: Sequence[int], epoch: int) -> Batch:
        """Return rows of an epoch, together, whatever the order; not counted."""
        return self._reader.read(Wanted(epoch, list(rows))).to(self.device)

    def _measure(self, batch: Batch) -> None:
        counts, masked = self.counts, False
        for inputs, mask in _masks(batch):
            counts.elements += inputs.shape[:2].numel() if mask is None else mask.numel()
            if mask is not None:
                counts.padded += mask.numel() - int(mask.sum())
                masked = True
        counts.masked += masked


def _masks(batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield all inputs with their masks: those of the batch, and in its extra each ``inputs_X`` with ``mask_X``."""
    yield batch.inputs, batch.mask_bl
    for name, inputs in batch.extra.items():
        if name.startswith("inputs_"):
            yield inputs, batch.extra.get(f"mask_{name.removeprefix('inputs_')}")
