"""Shell completion of plugin names, from what distributions declare: no plugin is imported for it."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ssm_core.plugin import registry

KINDS = {
    "backbones": "backbone",
    "addons": "addon",
    "tasks": "task",
    "recipes": "recipe",
    "probes": "probe",
    "benches": "bench",
    "studies": "study",
    "commands": "command",
}
"""What ``ssm list`` takes -> the kind of plugin, as ``ssm show`` takes it."""

Completion = list[tuple[str, str]]


def names(kind: str) -> Callable[[str], Completion]:
    """Return a completion function for the names of one kind; clashing ones are offered by their long names."""

    def complete(incomplete: str) -> Completion:
        return [item for item in _of_kind(kind) if item[0].startswith(incomplete)]

    return complete


def kinds(incomplete: str) -> Completion:
    """Complete the plural kinds of ``ssm list``."""
    return [(kind, "") for kind in KINDS if kind.startswith(incomplete)]


def kind(incomplete: str) -> Completion:
    """Complete the kinds of ``ssm show``."""
    return [(kind, "") for kind in KINDS.values() if kind.startswith(incomplete)]


def name_of_kind(ctx: typer.Context, incomplete: str) -> Completion:
    """Complete NAME of ``ssm show KIND NAME``."""
    wanted = ctx.params.get("kind") or ""
    return [item for item in _of_kind(KINDS.get(wanted, wanted)) if item[0].startswith(incomplete)]


def _of_kind(kind: str) -> Completion:
    if kind in ("recipe", "study"):
        from ssm_core.run.recipes import recipes, studies

        return [(item.name, item.summary) for item in (recipes() if kind == "recipe" else studies())]
    if kind not in registry.KINDS:
        return []
    entries = registry.found(kind)
    short = [entry.name for entry in entries]
    return [(e.name if short.count(e.name) == 1 else e.long_name, e.summary) for e in entries]
