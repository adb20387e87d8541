"""Figures of the literature that a run can be put beside."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.spec import Published, TaskSpec
from ssm_core.run.config import Choice, RunConfig


def published_for(config: RunConfig, metric: str | None = None) -> Published | None:
    """Return the published figure of the very model and task settings that a run has.

    Args:
        config: The run.
        metric: Only figures of this metric; None takes any.

    Returns:
        The first figure of the task whose backbone, add-ons and settings are the run's, None if there is none.

    Raises:
        PluginError: If the task cannot be described.
    """
    if config.task is None or config.backbone is None:
        return None
    model = (config.backbone.short, tuple(choice.short for choice in config.addons))
    for row in published_rows(config):
        same_model = (row.backbone, row.addons) == model
        if same_model and metric in (None, row.metric) and _holds(row, config.task):
            return row
    return None


def nearest_published(config: RunConfig, metric: str | None = None) -> Published | None:
    """Return the figure to print beside a run: its own, else that of the same backbone without its add-ons.

    Args:
        config: The run.
        metric: Only figures of this metric; None takes any.

    Returns:
        The figure, None if there is neither; ``model`` says so where it is without the add-ons.
    """
    own = published_for(config, metric)
    plain = None if own is not None else published_for(replace(config, addons=()), metric)
    if plain is None:
        return own
    addons = " and ".join(choice.short for choice in config.addons)
    return replace(plain, model=f"{plain.model} without {addons}")


def published_rows(config: RunConfig) -> tuple[Published, ...]:
    """Return every published figure of a run's task, also of models and settings that are not the run's.

    Raises:
        PluginError: If the task cannot be described.
    """
    if config.task is None:
        return ()
    _, spec = registry.describe("task", config.task.name)
    return spec.published if isinstance(spec, TaskSpec) else ()


def _holds(row: Published, task: Choice) -> bool:
    """Whether a figure's settings are the task's; a knob the task no longer has cannot agree."""
    missing = object()
    return all(_same(getattr(task.config, name, missing), text) for name, text in row.settings)


def _same(value: Any, text: str) -> bool:
    """Compare a knob with its value written as text: ``"0.5"`` is 0.5, ``"true"`` both True and the word."""
    if str(value) == text:
        return True
    try:
        parsed = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return False
    return isinstance(parsed, bool) == isinstance(value, bool) and parsed == value
