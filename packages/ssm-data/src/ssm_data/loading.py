"""Data sets by the name of their task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Split, Task


def load(task: str, split: str = "test", **knobs: Any) -> Split:
    """Load one split of a task as a map-style data set, making the data first if it is not cached.

    Args:
        task: Name of the task, such as ``"pendulum"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        **knobs: The task's knobs, such as ``sample_rate=0.3``.

    Returns:
        Rows are dicts of NumPy arrays; the documentation of each task lists them.

    Raises:
        PluginError: Unknown task.
        ConfigError: Unknown or wrong knob.
        UserError: Unknown split, or the cache cannot be written.
    """
    splits = build(task, knobs).splits()
    if split not in splits:
        raise UserError(f"task '{task}' has no split '{split}'", did_you_mean(split, splits))
    return splits[split]


def build(task: str, knobs: Mapping[str, Any]) -> Task:
    """Build a task by name; the one place where this package meets the registry."""
    return registry.build_task(task, knobs)
