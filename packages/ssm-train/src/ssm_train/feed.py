"""From row numbers to batches on the device, counting what is waited for and what is padding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_core.protocols import Batch, Split, Task


@dataclass
class Counts:
    """What an epoch's batches cost.

    Attributes:
        waited: Seconds that batches were waited for.
        spent: Seconds of the steps, waiting included.
        padded: Elements that were padding.
        elements: All elements.
        masked: Number of batches that had a mask.
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


class Feed:
    """The training split as batches.

    Args:
        task: Collates rows.
        split: The training split. If it has a method ``of_epoch(epoch)``, that gives the split of an epoch, with as
            many rows; the one given is that of the first.
        device: Where batches go.

    Attributes:
        counts: What the batches of the epoch so far cost.
    """

    def __init__(self, task: Task, split: Split, device: torch.device) -> None:
        self.task, self.device = task, device
        self._first: Any = split
        self._split, self._epoch = split, 0
        self.counts = Counts()

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Return rows of an epoch, together, on the device."""
        began = time.perf_counter()
        if epoch != self._epoch and hasattr(self._first, "of_epoch"):
            self._split, self._epoch = self._first.of_epoch(epoch), epoch
        batch = self.task.collate([self._split[row] for row in rows])
        self._measure(batch)
        batch = batch.to(self.device)
        self.counts.waited += time.perf_counter() - began
        return batch

    def _measure(self, batch: Batch) -> None:
        mask, counts = batch.mask_bl, self.counts
        if mask is None:
            counts.elements += batch.inputs.shape[:2].numel()
            return
        counts.elements += mask.numel()
        counts.padded += mask.numel() - int(mask.sum())
        counts.masked += 1
