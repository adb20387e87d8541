"""Which rows make up which batch: a pure function of seed and step, so that resuming needs no sampler state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

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
    """

    rows: int
    batch_size: int
    steps_per_epoch: int
    total: int
    seed: int

    @classmethod
    def of(cls, rows: int, config: TrainConfig, seed: int, processes: int = 1) -> BatchPlan:
        """Plan a run.

        Raises:
            ConfigError: If an epoch would have no batch, or one that leaves a process without a row.
        """
        full, rest = divmod(rows, config.batch_size)
        per_epoch = full + (rest > 0 and not config.drop_last)
        if per_epoch == 0:
            raise ConfigError(
                f"the training split has {rows} rows, fewer than train.batch_size = {config.batch_size}, and "
                "train.drop_last leaves out the smaller batch",
                "--set train.batch_size=... or --set train.drop_last=false",
            )
        if per_epoch > full and rest < processes:
            raise ConfigError(
                f"the last batch of an epoch has {rest} of the {rows} rows, fewer than the {processes} processes",
                "--set train.drop_last=true or another train.batch_size",
            )
        total = config.steps if config.steps is not None else config.epochs * per_epoch
        return cls(rows, config.batch_size, per_epoch, total, seed)

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> list[int]:
        """Return the rows of a step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self.rows, self.seed, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size]


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> list[int]:
    # One generator an epoch: the order does not depend on how many random numbers the model has drawn.
    generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()
