"""What ``ssm train --resume`` may change of a run, and the refusal of everything else."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ssm_core.plugin.config import parse_set
from ssm_core.plugin.errors import ConfigError
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.folder import RunFolder
from ssm_lab import assemble
from ssm_lab.diff import ABSENT, Difference, differences


def changes(run: Path, flags: assemble.Flags, changeable: Collection[str]) -> dict[str, Any]:
    """Return the settings of ``train`` that the command line changes, checked.

    Flags that repeat what the run has are fine.

    Args:
        run: The run folder.
        flags: What was given beside ``--resume``.
        changeable: Settings of ``train`` that do not make it another run.

    Raises:
        ConfigError: Listing all settings that would make it another run.
    """
    folder = RunFolder.open(run)
    held = folder.config_tree()
    stated = [*map(assemble.read, flags.files), flags.tree()]
    if flags.recipe is not None:
        stated.insert(0, {"recipe": _full_name(flags.recipe, held)})
    wanted = layered(held, *stated, overrides=parse_set(flags.sets), addons=flags.addons or None)
    found = differences(RunConfig.from_tree(held).to_tree(), RunConfig.from_tree(wanted).to_tree())
    allowed = {f"train.{name}": name for name in changeable}
    refused = [item for item in found if item.setting not in allowed]
    if refused:
        shown = _by_name(refused)
        listed = "; ".join(f"{item.setting} is {item.first!r}, asked for {item.second!r}" for item in shown)
        raise ConfigError(
            f"--resume takes these from the run {folder.path}: {listed}",
            f"only {', '.join(sorted(allowed))} may change; for another run, start one with --config {folder.path}",
        )
    return {allowed[item.setting]: item.second for item in found}


def _by_name(found: Collection[Difference]) -> list[Difference]:
    """Return the differences without the settings of plugins that one side does not have: their name says it all."""
    names = {item.setting for item in found}
    other = {kind for kind in ("backbone", "task") if f"{kind}.name" in names}
    addons = "addons" in names  # by then another list of them, or another order
    return [
        item
        for item in found
        if item.setting in ("backbone.name", "task.name")
        or not (
            item.setting.partition(".")[0] in other
            or (addons and item.setting.startswith("addons.") and ABSENT in (item.first, item.second))
        )
    ]


def _full_name(recipe: str, held: dict[str, Any]) -> str:
    if "/" in recipe:
        return "/".join(recipe.split("/")[-2:])
    task = str(held.get("task", {}).get("name", "")).rpartition("/")[2]
    return f"{task}/{recipe}"
