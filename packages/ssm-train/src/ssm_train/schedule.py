"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from ssm_core.run.config import OptimConfig


def lr_factor(step: int, total: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Return the factor on every group's peak rate at a step, counted from 0.

    Args:
        step: Optimiser step about to be taken.
        total: Steps of the whole run.
        steps_per_epoch: Steps of one epoch, the unit of ``warmup_epochs``.
        config: Warm-up length, kind of decay, final factor.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    return config.lr_min + (1 - config.lr_min) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
