"""Kernels, backbones and the plugin contract of the toolkit. Importing this loads no torch; using its names does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_core import ops
    from ssm_core.model import build_model
    from ssm_core.run.load import load

__all__ = ["build_model", "load", "ops"]

_HOMES = {"build_model": "ssm_core.model", "load": "ssm_core.run.load"}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "ops":
        return importlib.import_module("ssm_core.ops")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ssm_core' has no attribute '{name}'")
