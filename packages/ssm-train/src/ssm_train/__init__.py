"""The training loop. Importing this loads no torch; using its names does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_train.errors import TrainingFailed
    from ssm_train.seeds import fit_seeds
    from ssm_train.setup import describe
    from ssm_train.training import fit, resume

__all__ = ["TrainingFailed", "describe", "fit", "fit_seeds", "resume"]

_HOMES = {
    "TrainingFailed": "ssm_train.errors",
    "describe": "ssm_train.setup",
    "fit": "ssm_train.training",
    "fit_seeds": "ssm_train.seeds",
    "resume": "ssm_train.training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ssm_train' has no attribute '{name}'")
