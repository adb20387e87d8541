"""From flags to a run configuration: defaults < recipe < files < flags < ``--set``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.config import Tree, parse_set, read_file
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import RunConfig, layered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says about a run; None is what was not given.

    Attributes:
        backbone: Name of the backbone.
        addons: Names of the add-ons, innermost first.
        task: Name of the task.
        recipe: Name of the recipe.
        files: Configuration files, the later the stronger.
        sets: ``--set`` assignments.
        epochs: Length in epochs.
        steps: Length in steps.
        seed: The seed.
        device: The device.
    """

    backbone: str | None = None
    addons: Sequence[str] | None = None
    task: str | None = None
    recipe: str | None = None
    files: Sequence[Path] = ()
    sets: Sequence[str] = ()
    epochs: int | None = None
    steps: int | None = None
    seed: int | None = None
    device: str | None = None

    def tree(self) -> Tree:
        """Return the flags as settings, without recipe, files and ``--set``."""
        tree: Tree = {kind: {"name": name} for kind in ("backbone", "task") if (name := getattr(self, kind))}
        train: Tree = {}
        if self.epochs is not None and self.steps is not None:
            raise UserError("--epochs and --steps both give the length of the run", "give one of them")
        if self.epochs is not None:
            train = {"epochs": self.epochs}
        if self.steps is not None:
            train = {"steps": self.steps}
        if self.device is not None:
            train["device"] = self.device
        if train:
            tree["train"] = train
        if self.seed is not None:
            tree["seed"] = self.seed
        return tree


def run_config(flags: Flags) -> RunConfig:
    """Resolve a run from the command line.

    Raises:
        ConfigError: For unknown settings and wrong values.
        PluginError: For plugins and recipes that are unknown, clashing or broken.
    """
    files = [read(path) for path in flags.files]
    overrides = parse_set(flags.sets)
    stated = [*files, flags.tree()]
    recipe = _recipe(flags, stated, overrides)
    return RunConfig.from_tree(layered(recipe, *stated, overrides=overrides, addons=flags.addons or None))


def complete_run(config: RunConfig) -> RunConfig:
    """Return the configuration if it can be trained.

    Raises:
        ConfigError: If backbone or task is missing; the message lists what is installed.
    """
    for kind in ("backbone", "task"):
        if getattr(config, kind) is None:
            known = ", ".join(dict.fromkeys(entry.name for entry in registry.found(kind))) or "none"
            raise ConfigError(f"no {kind} is chosen", f"add --{kind} NAME; installed: {known}")
    return config


def read(path: Path) -> Tree:
    """Read a configuration file; a run folder stands for the configuration in it."""
    tree = read_file(path / "config.json" if path.is_dir() else path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, not settings")
    return tree


def _recipe(flags: Flags, stated: Sequence[Tree], overrides: Tree) -> Tree:
    """Return the settings of the recipe that applies, weakest of all, or nothing."""
    from ssm_core.run.recipes import default_recipe, recipe

    asked = flags.recipe
    if asked is None:
        if any("schema" in tree for tree in stated):
            return {}  # written by `ssm config show` or a run: every knob is in it, its recipe's too
        asked = next((str(tree["recipe"]) for tree in reversed(stated) if "recipe" in tree), None)
    if asked == "":
        return {}
    task = _named("task", [*stated, overrides]) or _task_of(asked or "")
    backbone = _named("backbone", [*stated, overrides])
    if not task:
        if asked:
            raise ConfigError(
                f"recipe '{asked}' of which task?", "add --task NAME, or say --recipe TASK/NAME"
            )
        return {}
    found = recipe(asked, _short(task)) if asked else default_recipe(task)
    if found is None:
        return {}
    own = found.for_backbone(backbone)
    return {**own, "task": {"name": task, **own.get("task", {})}}


def _named(kind: str, trees: Sequence[Mapping[str, Any]]) -> str | None:
    for tree in reversed(trees):
        section = tree.get(kind)
        if isinstance(section, Mapping) and "name" in section:
            return str(section["name"])
    return None


def _task_of(recipe: str) -> str:
    """Return the task in ``task/name`` or ``distribution/task/name``."""
    return _short(recipe.rpartition("/")[0])


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def seeds(text: str) -> list[int]:
    """Read ``0-4``, ``0,2,5`` or ``0-2,7``.

    Raises:
        UserError: If it is none of these, or names a seed twice.
    """
    chosen: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            chosen += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        chosen = []
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise UserError(f"--seeds takes numbers such as 0-4 or 0,2,5, each once, not '{text}'")
    return chosen
