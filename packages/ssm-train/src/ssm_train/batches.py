"""Which rows make up which batch: a pure function of seed and step, so that resuming needs no sampler state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssm_core.plugin.errors import ConfigError
from ssm_core.run.config import TrainConfig


@dataclass(frozen=True)
class BatchPlan:
    """The order of rows over a whole run.

    Attributes:
        rows: Rows of the training split.
        batch_size: Rows a step, over all processes.
        steps_per_epoch: Steps of one epoch.
        total: Steps of the run.
        seed: The run's seed.
        in_order: Batches are the rows one after the other, since each goes on where the one before ended.
        bucket: Batches whose rows are sorted by length among themselves; 0 sorts none.
        lengths: Length of each row (rows,), for ``bucket``.
    """

    rows: int
    batch_size: int
    steps_per_epoch: int
    total: int
    seed: int
    in_order: bool = False
    bucket: int = 0
    lengths: NDArray | None = field(default=None, compare=False, repr=False)
    _orders: dict[int, NDArray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        rows: int,
        config: TrainConfig,
        seed: int,
        processes: int = 1,
        *,
        in_order: bool = False,
        lengths: NDArray | None = None,
    ) -> BatchPlan:
        """Plan a run.

        Args:
            rows: Rows of the training split.
            config: The loop's settings.
            seed: The run's seed.
            processes: Processes that share each batch.
            in_order: Take rows one after the other.
            lengths: Length of each row (rows,), needed with ``train.bucket``.

        Raises:
            ConfigError: If an epoch would have no batch, or one that leaves a process without a row, or one that cannot
                go on where the one before ended; or if rows are to be sorted whose lengths are not known.
        """
        full, rest = divmod(rows, config.batch_size)
        per_epoch = full + (rest > 0 and not config.drop_last)
        if per_epoch == 0:
            raise ConfigError(
                f"the training split has {rows} rows, fewer than train.batch_size = {config.batch_size}, and "
                "train.drop_last leaves out the smaller batch",
                "--set train.batch_size=... or --set train.drop_last=false",
            )
        if per_epoch > full and (rest < processes or (in_order and full)):
            reason = f"fewer than the {processes} processes" if rest < processes else "too few to carry state"
            raise ConfigError(
                f"the last batch of an epoch has {rest} of the {rows} rows, {reason}",
                "--set train.drop_last=true or another train.batch_size",
            )
        if config.bucket and (in_order or lengths is None):
            reason = (
                "its batches continue each other" if in_order else "it has no method lengths() to tell them"
            )
            raise ConfigError(
                f"train.bucket = {config.bucket} sorts the rows of the training split by length, and {reason}",
                "--set train.bucket=0",
            )
        total = config.steps if config.steps is not None else config.epochs * per_epoch
        return cls(rows, config.batch_size, per_epoch, total, seed, in_order, config.bucket, lengths)

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> list[int]:
        """Return the rows of a step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        if self.in_order:
            return list(range(start, min(start + self.batch_size, self.rows)))
        return self._order(epoch)[start : start + self.batch_size].tolist()

    def _order(self, epoch: int) -> NDArray:
        if epoch not in self._orders:
            # An epoch may have many millions of rows. Two are held: workers read ahead into the next one.
            for old in list(self._orders)[:-1]:
                del self._orders[old]
            # One generator an epoch: the order does not depend on how many random numbers the model has drawn.
            generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + epoch)
            order = torch.randperm(self.rows, generator=generator).numpy()
            self._orders[epoch] = self._sorted(order, generator) if self.bucket else order
        return self._orders[epoch]

    def _sorted(self, order: NDArray, generator: torch.Generator) -> NDArray:
        """Return rows sorted by length window by window, and then whole batches shuffled; a smaller one stays last."""
        assert self.lengths is not None
        size = self.batch_size
        window = self.bucket * size
        order, rest = np.split(order, [len(order) // size * size])
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(self.lengths[part], kind="stable")]
        batches = order.reshape(-1, size)
        shuffled = batches[torch.randperm(len(batches), generator=generator).numpy()]
        return np.concatenate([shuffled.ravel(), rest])


def plan_of(train: Any, config: TrainConfig, seed: int, processes: int, *, carries: bool) -> BatchPlan:
    """Return the plan of a run on a training split.

    A split may say more of itself than its rows: ``lengths()``, an array (rows,), and ``streams``, how many of its rows
    run side by side where state is carried.

    Raises:
        ConfigError: If split and settings do not go together.
    """
    streams = getattr(train, "streams", 0)
    if carries and streams not in (0, config.batch_size):
        raise ConfigError(
            f"the training split runs in {streams} streams side by side, and train.batch_size = {config.batch_size}",
            f"--set train.batch_size={streams}",
        )
    tell = getattr(train, "lengths", None) if config.bucket else None
    lengths = None if tell is None else np.asarray(tell())
    return BatchPlan.of(len(train), config, seed, processes, in_order=carries, lengths=lengths)
