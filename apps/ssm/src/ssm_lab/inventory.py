"""Everything that is installed, as plain rows: what `ssm list` and `ssm doctor` print. It never fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.errors import PluginError
from ssm_lab import plugin_commands

Row = dict[str, Any]


def rows(kind: str) -> Iterator[Row]:
    """Yield every plugin of a kind: kind, name, long_name, dist, version, summary, state and detail.

    The state is ``ok``, ``broken`` or ``clash``; the detail says what is wrong. Specs are imported, nothing is built.
    """
    if kind in ("recipe", "study"):
        yield from _shipped(kind)
        return
    entries = registry.found(kind)
    for entry in entries:
        yield _row(entry, entry.name, entry.summary) | _clash(entry, entries) | _described(entry)


def _row(entry: registry.Entry, name: str, summary: str) -> Row:
    return {
        "kind": entry.kind,
        "name": name,
        "long_name": f"{entry.dist}/{name}",
        "dist": entry.dist,
        "version": entry.version,
        "summary": summary,
        "state": "ok",
        "detail": "",
    }


def _clash(entry: registry.Entry, entries: tuple[registry.Entry, ...]) -> Row:
    others = [other.long_name for other in entries if other.name == entry.name and other is not entry]
    return {"state": "clash", "detail": f"{', '.join(others)} has the same name"} if others else {}


def _described(entry: registry.Entry) -> Row:
    try:
        if entry.kind == "command":
            return {"summary": plugin_commands.first_line(plugin_commands.load(entry)) or entry.summary}
        return {"summary": registry.describe(entry.kind, entry.long_name)[1].summary}
    except PluginError as error:
        return {"state": "broken", "detail": error.what}


def _shipped(kind: str) -> Iterator[Row]:
    """Yield the recipes or the studies: files in the folders that distributions declare."""
    from ssm_core.run.recipes import recipes, studies

    entries = {}
    for entry in registry.found("recipe"):
        entries[entry.dist] = entry
        broken = _described_module(entry) if kind == "recipe" else {}
        if broken:
            yield _row(entry, entry.name, entry.summary) | broken
    shipped = recipes() if kind == "recipe" else studies()
    names = [item.name for item in shipped]
    for item in shipped:
        row = _row(entries[item.dist], item.name, item.summary) | {"kind": kind}
        if names.count(item.name) > 1:
            row |= {"state": "clash", "detail": "shipped by more than one distribution"}
        yield row


def _described_module(entry: registry.Entry) -> Row:
    try:
        entry.load()
    except PluginError as error:
        return {"state": "broken", "detail": error.what}
    return {}
