"""From a study to its runs: every combination of levels is resolved to a configuration, and that is run once."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssm_core.plugin.config import Tree
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import recipe
from ssm_train.study.definition import Places, Study, matches


@dataclass(frozen=True)
class Cell:
    """One combination of levels.

    Attributes:
        levels: Axis -> level.
        config: Its configuration, the seed aside.
    """

    levels: Mapping[str, str]
    config: RunConfig

    @property
    def name(self) -> str:
        """The levels, in the order of the axes."""
        return ", ".join(self.levels.values())


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        config: Its configuration, the seed with it.
        name: The first cell that it serves, and the seed.
    """

    config: RunConfig
    name: str

    @property
    def key(self) -> str:
        """Names the job among those of the study, and its folder."""
        return f"{self.config.label()}-{key(self.config.to_tree())[:10]}"


@dataclass(frozen=True)
class Plan:
    """Everything a study consists of, and the part that is asked for now.

    Attributes:
        study: The study.
        cells: All of its cells.
        chosen: Those to be run.
        seeds: The seeds.
        overrides: Settings laid over all runs.
    """

    study: Study
    cells: tuple[Cell, ...]
    chosen: tuple[Cell, ...]
    seeds: tuple[int, ...]
    overrides: Tree

    def jobs(self) -> list[Job]:
        """Return the runs to make, every cell with the first seed before any with the second.

        Cells that resolve to one configuration (a knob of an add-on varies, and they have none) share their runs.
        """
        found: dict[str, Job] = {}
        for seed, cell in itertools.product(self.seeds, self.chosen):
            job = Job(seeded(cell.config, seed), f"{cell.name}, seed {seed}")
            found.setdefault(job.key, job)
        return list(found.values())


def make_plan(
    study: Study,
    *,
    seeds: Sequence[int] | None = None,
    only: Places | None = None,
    overrides: Tree | None = None,
) -> Plan:
    """Resolve a study.

    Args:
        study: The study.
        seeds: Instead of its own.
        only: Limits what is run, not what is reported.
        overrides: Settings laid over all runs, as from ``--set``; those of an add-on go to the cells that have it.

    Raises:
        UserError: If nothing is left to run, or an override fits no cell.
        ConfigError: If a cell's settings are wrong, or the overrides make one of two that differed; the message names
            the cells.
    """
    overrides = overrides or {}
    combinations = [
        dict(zip((axis.name for axis in study.axes), levels, strict=True))
        for levels in itertools.product(*(axis.levels for axis in study.axes))
    ]
    kept = [levels for levels in combinations if not any(matches(levels, skip) for skip in study.skip)]
    cells = tuple(_cell(study, levels, overrides) for levels in kept)
    placed = {name for cell in cells for name in _addons(cell.config)}
    for name in overrides.get("addons", {}):
        if name.rpartition("/")[2] not in placed:
            raise UserError(f"no cell of study {study.name} has the add-on '{name}' that --set names")
    chosen = tuple(cell for cell in cells if matches(cell.levels, only or {}))
    if not chosen:
        raise UserError(f"nothing of study {study.name} is left to run", "give --only other levels")
    if overrides:
        cells = _told_apart(study, cells, chosen)
    return Plan(study, cells, chosen, tuple(study.seeds if seeds is None else seeds), overrides)


def _told_apart(study: Study, cells: tuple[Cell, ...], chosen: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Return the cells without those that ``--set`` has made equal to another and that are not to be run.

    Raises:
        ConfigError: If two of those that are to be run differ without it, and no longer do with it.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell.config.to_tree()), []).append(cell)
    left_out = set[str]()
    for group in groups.values():
        before = {cell.name: _key_without(study, cell) for cell in group} if len(group) > 1 else {}
        if len(set(before.values()) - {""}) < 2:
            continue
        wanted = {before[cell.name]: cell for cell in reversed(group) if cell in chosen}
        left_out |= {cell.name for cell in group if before[cell.name] not in wanted}
        if len(wanted) > 1:
            *_, other, one = wanted.values()
            raise ConfigError(
                f"--set makes one run of the cells '{one.name}' and '{other.name}' of study {study.name}, which differ",
                "run one of them with --only, set something else, or write a study file of your own",
            )
    return tuple(cell for cell in cells if cell.name not in left_out)


def _key_without(study: Study, cell: Cell) -> str:
    """Return what a cell is known by without overrides; nothing if it is no run without them."""
    try:
        return key(_cell(study, cell.levels, {}).config.to_tree())
    except ConfigError:
        return ""


def seeded(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of one seed."""
    return replace(config, seed=seed)


def key(tree: Mapping[str, Any]) -> str:
    """Return a hash of a run's configuration, as its folder holds it.

    The numbers of CPU threads and of workers are left out: they are the machine's affair, and no other run.
    """
    train = {name: value for name, value in tree["train"].items() if name not in ("threads", "workers")}
    text = json.dumps({**tree, "train": train}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _cell(study: Study, levels: Mapping[str, str], overrides: Tree) -> Cell:
    stated = [study.settings, *(axis.levels[levels[axis.name]] for axis in study.axes)]
    stated += [when.settings for when in study.when if matches(levels, when.at)]
    trees = _without_dropped([_full(tree) for tree in stated])
    name = ", ".join(levels.values())
    try:
        merged = layered(*trees)
        weakest = _recipe(study, merged)
        chosen = {addon.rpartition("/")[2] for addon in merged.get("addons", {})}
        over = {**overrides}
        if "addons" in over:
            over["addons"] = {a: v for a, v in over["addons"].items() if a.rpartition("/")[2] in chosen}
        config = RunConfig.from_tree(layered(weakest, *trees, overrides=over))
    except ConfigError as error:
        raise ConfigError(f"cell '{name}' of study {study.name}: {error.what}", error.hint) from None
    if config.backbone is None or config.task is None:
        missing = "backbone" if config.backbone is None else "task"
        raise ConfigError(
            f"cell '{name}' of study {study.name} has no {missing}", "name it in a level or a recipe"
        )
    return Cell(levels, config)


def _recipe(study: Study, merged: Tree) -> Tree:
    if not study.recipe:
        return {}
    shipped = recipe(study.recipe, "")
    backbone = merged.get("backbone", {}).get("name")
    own = shipped.for_backbone(backbone)
    task = {"name": study.recipe.split("/")[-2], **own.get("task", {})}
    return {**own, "task": task}


def _without_dropped(trees: list[Tree]) -> list[Tree]:
    """Return the trees without the add-ons of those before the last that says ``addons = []``."""
    last = max((place for place, tree in enumerate(trees) if tree.get("addons") == {}), default=0)
    before = [{name: section for name, section in tree.items() if name != "addons"} for tree in trees[:last]]
    return before + trees[last:]


def _full(tree: Tree) -> Tree:
    """Return a tree with the short forms written out: names of backbone and task, list of add-ons."""
    full = dict(tree)
    for section in ("backbone", "task"):
        if isinstance(full.get(section), str):
            full[section] = {"name": full[section]}
    if isinstance(full.get("addons"), list):
        full["addons"] = {name: {} for name in full["addons"]}
    return full


def _addons(config: RunConfig) -> set[str]:
    return {choice.short for choice in config.addons}
