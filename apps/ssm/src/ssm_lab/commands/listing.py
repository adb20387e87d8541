"""``ssm list``: what is installed, broken parts included."""

from __future__ import annotations

from typing import Annotated

import typer

from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_lab import complete, console, inventory, options

app = typer.Typer()


@app.command("list")
def list_plugins(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND", autocompletion=complete.kinds, help=f"One of {', '.join(complete.KINDS)}."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List what is installed: backbones, add-ons, tasks, recipes and more.

    A broken or clashing plugin is listed with what is wrong; the list itself never fails.
    """
    if kind is not None and kind not in complete.KINDS:
        raise UserError(f"there is no kind '{kind}' of plugins", did_you_mean(kind, complete.KINDS))
    found = {
        name: list(inventory.rows(complete.KINDS[name])) for name in ([kind] if kind else complete.KINDS)
    }
    if as_json:
        console.emit_json([row for group in found.values() for row in group])
        return
    for title, group in found.items():
        _print(title, group)
    if kind and not found[kind]:
        console.say(f"no {kind} installed")


def _print(title: str, group: list[inventory.Row]) -> None:
    columns = ["name", "from", "summary", "state"]
    if all(row["state"] == "ok" for row in group):
        columns.remove("state")
    shown = []
    for row in group:
        state = "" if row["state"] == "ok" else f"{row['state']}: {row['detail']}"
        name = row["long_name"] if row["state"] == "clash" else row["name"]
        shown.append({**row, "name": name, "from": f"{row['dist']} {row['version']}", "state": state})
    console.emit_table(shown, columns, title)
