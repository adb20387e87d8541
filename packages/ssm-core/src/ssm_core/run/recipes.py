"""Recipes and studies: TOML files that distributions ship, named after where they lie.

A recipe, ``<task>/<name>``, is the settings of a run; a study, ``<name>`` in the folder ``studies``, is many runs and
what to make of them. Whoever runs a study knows its form (:mod:`ssm_train.study`); here it is a tree with a summary.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from ssm_core.plugin import registry
from ssm_core.plugin.config import Tree, merge
from ssm_core.plugin.errors import ConfigError, PluginError, did_you_mean

T = TypeVar("T")


STUDIES = "studies"
"""Folder of the studies among those of the tasks."""


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
class ShippedStudy:
    """A shipped study, as it stands in its file.

    Attributes:
        name: Name of its file.
        dist: Distribution that ships it.
        summary: Its first line.
        tree: All of it.
    """

    name: str
    dist: str
    summary: str
    tree: Tree


@dataclass(frozen=True)
class _Place:
    """The file of a recipe, or of a study if its folder is :data:`STUDIES`, not read yet."""

    folder: str
    stem: str
    dist: str
    file: Traversable

    @property
    def name(self) -> str:
        return self.stem if self.folder == STUDIES else f"{self.folder}/{self.stem}"

    @property
    def kind(self) -> str:
        return "study" if self.folder == STUDIES else "recipe"

    def tree(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            what = f"{self.kind} {self.name} of {self.dist} is not valid TOML: {error}"
            raise ConfigError(what) from None

    def recipe(self) -> Recipe:
        tree = self.tree()
        summary, backbones = str(tree.pop("summary", "")), tree.pop("backbones", {})
        return Recipe(name=self.name, dist=self.dist, summary=summary, tree=tree, backbones=backbones)

    def study(self) -> ShippedStudy:
        tree = self.tree()
        return ShippedStudy(name=self.name, dist=self.dist, summary=str(tree.get("summary", "")), tree=tree)


def recipes() -> list[Recipe]:
    """Return every recipe that can be read, sorted by name; broken files and distributions are left out."""
    return _readable([place.recipe for place in _places("recipe")[0]])


def studies() -> list[ShippedStudy]:
    """Return every study that can be read, sorted by name; broken files and distributions are left out."""
    return _readable([place.study for place in _places("study")[0]])


def study(name: str) -> ShippedStudy:
    """Return a study.

    Args:
        name: ``<name>`` or ``<distribution>/<name>``.

    Raises:
        PluginError: If there is none of that name, with the nearest that exist, or more than one.
        ConfigError: If it cannot be read.
    """
    dist, _, short = name.rpartition("/")
    places, broken = _places("study")
    matches = [place for place in places if place.name == short and dist in ("", place.dist)]
    if not matches:
        hint = did_you_mean(name, {place.name for place in places})
        raise PluginError(f"there is no study '{name}'", "; ".join([hint, *broken]))
    return _only(matches, name).study()


def _readable(readers: Sequence[Callable[[], T]]) -> list[T]:
    found = []
    for read in readers:
        try:
            found.append(read())
        except ConfigError:
            continue
    return found


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
    places, broken = _places("recipe")
    matches = [place for place in places if place.name == short and dist in ("", place.dist)]
    if not matches:
        hint = did_you_mean(full, {place.name for place in places})
        raise PluginError(f"there is no recipe '{full}'", "; ".join([hint, *broken]))
    return _only(matches, full).recipe()


def default_recipe(task: str) -> Recipe | None:
    """Return ``<task>/default``, or None if nobody ships one; the task's own distribution goes before others.

    Args:
        task: Short or long name of a task.
    """
    full = f"{task.rpartition('/')[2]}/default"
    matches = [place for place in _places("recipe")[0] if place.name == full]
    if len(matches) > 1:
        owner = registry.find("task", task).dist
        matches = [place for place in matches if place.dist == owner] or matches
    return _only(matches, full).recipe() if matches else None


def _only(matches: list[_Place], full: str) -> _Place:
    if len(matches) > 1:
        owners, kind = [f"{place.dist}/{place.name}" for place in matches], matches[0].kind
        how = "--recipe " if kind == "recipe" else "ssm study "
        raise PluginError(
            f"{kind} '{full}' is shipped {len(matches)} times: {', '.join(owners)}",
            f"name one of them: {how}{owners[0]}",
        )
    return matches[0]


def _places(kind: str) -> tuple[list[_Place], list[str]]:
    """Return the files of a kind, sorted, and what is wrong with the distributions that could not be searched."""
    places: set[_Place] = set()
    broken = []
    for entry in registry.found("recipe"):
        try:
            root = files(entry.load())
        except (PluginError, TypeError) as error:
            broken.append(f"{entry.dist} ships some that cannot be found: {getattr(error, 'what', error)}")
            continue
        places |= {
            _Place(folder.name, file.name.removesuffix(".toml"), entry.dist, file)
            for folder in root.iterdir()
            if folder.is_dir() and (folder.name == STUDIES) == (kind == "study")
            for file in folder.iterdir()
            if file.name.endswith(".toml")
        }
    return sorted(places, key=lambda place: (place.name, place.dist)), broken
