"""Commands as plugins: a Typer app behind an entry point of the group ``ssm.commands``."""

from __future__ import annotations

import typer

from ssm_core.plugin.errors import PluginError
from ssm_core.plugin.registry import Entry


def load(entry: Entry) -> typer.Typer:
    """Import a command.

    Raises:
        PluginError: If that fails, or what is there is no Typer app.
    """
    app = entry.load()
    if not isinstance(app, typer.Typer):
        owner = f"command '{entry.name}' from {entry.dist} {entry.version}"
        raise PluginError(
            f"{owner}: {entry.point.value} is a {type(app).__name__}, not a Typer app",
            f"mend or uninstall {entry.dist}",
        )
    return app


def is_group(app: typer.Typer) -> bool:
    """Say whether an app is a group of commands; with one function it is that command, as Typer itself has it."""
    alone = len(app.registered_commands) == 1 and not app.registered_groups
    return not alone or app.registered_callback is not None


def first_line(app: typer.Typer) -> str:
    """Return the first line of an app's help, or of its only function's; empty if it has none."""
    texts = [app.info.help]
    if not is_group(app):
        command = app.registered_commands[0]
        texts += [command.help, command.callback.__doc__ if command.callback else None]
    return next(
        (text.strip().splitlines()[0] for text in texts if isinstance(text, str) and text.strip()), ""
    )
