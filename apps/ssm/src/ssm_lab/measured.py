"""Printing what probes and benches found."""

from __future__ import annotations

from typing import Any

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import PluginError
from ssm_lab import console


def show(result: Any, whose: str, as_json: bool) -> None:
    """Print a :class:`ssm_core.protocols.Result`, or a mapping of the same form, as text and tables or as JSON.

    Args:
        result: What the plugin returned.
        whose: Kind and name of the plugin, for messages.
        as_json: Print JSON.

    Raises:
        PluginError: If the plugin returned something else.
    """
    found = plain(result)
    if not isinstance(found, dict):
        raise PluginError(
            f"{whose} returned a {type(result).__name__}, not a Result", "report it to its author"
        )
    if as_json:
        console.emit_json(found)
        return
    # A mapping without the fields of a Result is a mapping of figures.
    figures = found.get("figures", {k: v for k, v in found.items() if k not in ("text", "rows")})
    if found.get("text"):
        console.emit(found["text"])
    console.emit_table([{"figure": name, "value": value} for name, value in figures.items()])
    console.emit_table(found.get("rows") or [])
