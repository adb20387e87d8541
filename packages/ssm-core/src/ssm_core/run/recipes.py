"""Recipes: TOML files that distributions ship, named ``<task>/<name>`` after where they lie."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.config import Tree, merge
from ssm_core.plugin.errors import ConfigError, PluginError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """A shipped configuration.

    Attributes:
        name: ``<task>/<name>``.
        dist: Distribution that ships it.
        summary: Its first line.
        tree: Settings for the run, without those that depend on the backbone.
        backbones: Backbone -> its knobs, if it is the one chosen.
    """

    name: str
    dist: str
    summary: str
    tree: Tree
    backbones: Mapping[str, Tree]

    def for_backbone(self, backbone: str | None) -> Tree:
        """Return the settings of the recipe for a backbone (short or long name)."""
        dist, _, short = (backbone or "").rpartition("/")
        # Another distribution's backbone of a name that is ours has other knobs.
        ours = not dist or dist == registry.FIRST_PARTY.get(short, dist)
        knobs = self.backbones.get(short, {}) if ours else {}
        return merge(self.tree, {"recipe": self.name, "backbone": knobs})


@dataclass(frozen=True)
class _Place:
    """A recipe's file, not read yet."""

    name: str
    dist: str
    file: Traversable

    def read(self) -> Recipe:
        try:
            tree: dict[str, Any] = tomllib.loads(self.file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"recipe {self.name} of {self.dist} is not valid TOML: {error}") from None
        summary, backbones = str(tree.pop("summary", "")), tree.pop("backbones", {})
        return Recipe(name=self.name, dist=self.dist, summary=summary, tree=tree, backbones=backbones)


def recipes() -> list[Recipe]:
    """Return every recipe that can be read, sorted by name; broken files and distributions are left out."""
    readable = []
    for place in _places()[0]:
        try:
            readable.append(place.read())
        except ConfigError:
            continue
    return readable


def recipe(name: str, task: str) -> Recipe:
    """Return a recipe.

    Args:
        name: ``<task>/<name>``, ``<distribution>/<task>/<name>``, or ``<name>`` alone for the given task.
        task: Short name of the task.

    Raises:
        PluginError: If there is none of that name, with the nearest that exist, or more than one.
        ConfigError: If it cannot be read.
    """
    full = name if "/" in name else f"{task}/{name}"
    *owner, task, name = full.split("/")
    dist, short = "/".join(owner), f"{task}/{name}"
    places, broken = _places()
    matches = [place for place in places if place.name == short and dist in ("", place.dist)]
    if not matches:
        hint = did_you_mean(full, {place.name for place in places})
        raise PluginError(f"there is no recipe '{full}'", "; ".join([hint, *broken]))
    return _only(matches, full).read()


def default_recipe(task: str) -> Recipe | None:
    """Return ``<task>/default``, or None if nobody ships one; the task's own distribution goes before others.

    Args:
        task: Short or long name of a task.
    """
    full = f"{task.rpartition('/')[2]}/default"
    matches = [place for place in _places()[0] if place.name == full]
    if len(matches) > 1:
        owner = registry.find("task", task).dist
        matches = [place for place in matches if place.dist == owner] or matches
    return _only(matches, full).read() if matches else None


def _only(matches: list[_Place], full: str) -> _Place:
    if len(matches) > 1:
        owners = [f"{place.dist}/{place.name}" for place in matches]
        raise PluginError(
            f"recipe '{full}' is shipped {len(matches)} times: {', '.join(owners)}",
            f"name one of them: --recipe {owners[0]}",
        )
    return matches[0]


def _places() -> tuple[list[_Place], list[str]]:
    """Return the recipes' files, sorted, and what is wrong with the distributions that could not be searched."""
    places: set[_Place] = set()
    broken = []
    for entry in registry.found("recipe"):
        try:
            root = files(entry.load())
        except (PluginError, TypeError) as error:
            broken.append(f"{entry.dist} ships some that cannot be found: {getattr(error, 'what', error)}")
            continue
        places |= {
            _Place(f"{task.name}/{file.name.removesuffix('.toml')}", entry.dist, file)
            for task in root.iterdir()
            if task.is_dir()
            for file in task.iterdir()
            if file.name.endswith(".toml")
        }
    return sorted(places, key=lambda place: (place.name, place.dist)), broken
