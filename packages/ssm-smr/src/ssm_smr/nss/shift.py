"""A task with other settings: the same sequences on another grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.config import check, merge, parse_set, plain
from ssm_core.plugin.errors import PluginError, UserError


def shifted(task: Any, settings: Sequence[str]) -> Any:
    """Return the task with settings such as ``grid=jittered`` laid over its own.

    Raises:
        ConfigError: If it has no such setting.
        UserError: If it cannot be told which plugin the task is of, or it then has no test split.
    """
    config = getattr(task, "config", None)
    for entry in registry.found("task"):
        try:
            _, spec = registry.describe("task", entry.long_name)
        except PluginError:
            continue
        if spec.config is type(config):
            break
    else:
        raise UserError(
            f"{type(task).__name__} is of no registered task, so that its settings cannot be changed",
            "leave shift out: then encoded inputs are moved",
        )
    changes = parse_set(settings)
    changes |= changes.pop("task", {})
    values = check(spec.config, merge(plain(config), changes), "task", f"task {entry.long_name}")
    _, build = registry.builder("task", entry.long_name)
    other = build(values)
    other.prepare()
    if "test" not in other.splits():
        raise UserError(f"with these settings {entry.long_name} has no test split")
    return other
