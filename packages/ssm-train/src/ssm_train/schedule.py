"""The learning rate: a pure function of the step, times what the plateaus of validation have left of it."""

from __future__ import annotations

import math

from ssm_core.run.config import OptimConfig


def lr_factor(step: int, total: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Return the factor on every group's peak rate at a step, counted from 0; without that of plateaus.

    Args:
        step: Optimiser step about to be taken.
        total: Steps of the whole run.
        steps_per_epoch: Steps of one epoch, the unit of ``warmup_epochs``.
        config: Warm-up length, kind of decay, final factor.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule in ("constant", "plateau"):
        return 1.0
    progress = min((step - warmup) / max(1, total - warmup), 1.0)
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr_min + (1 - config.lr_min) * left


class Plateau:
    """The factor of ``schedule = plateau``: applied once for each so many epochs without a better validation metric.

    Args:
        config: Factor, patience, and the least that is left.

    Attributes:
        factor: What is left of the rate.
        since: Step from which patience counts: the last one that was better, or at which the factor was applied.
    """

    def __init__(self, config: OptimConfig) -> None:
        self.config = config
        self.factor, self.since = 1.0, 0

    def validated(self, step: int, steps_per_epoch: int, *, better: bool) -> bool:
        """Take note of an evaluation after so many steps; say whether the rate falls."""
        if self.config.schedule != "plateau":
            return False
        if better:
            self.since = step
        if step - self.since < self.config.plateau_patience * steps_per_epoch:
            return False
        before, self.since = self.factor, step
        self.factor = max(self.factor * self.config.plateau_factor, self.config.lr_min)
        return self.factor < before

    def state(self) -> dict[str, float]:
        """Return what a checkpoint has to hold."""
        return {"factor": self.factor, "since": self.since}

    def load(self, state: dict[str, float]) -> None:
        """Put back what :meth:`state` returned; an empty one changes nothing."""
        self.factor = state.get("factor", self.factor)
        self.since = int(state.get("since", self.since))
