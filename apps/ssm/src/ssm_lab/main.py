"""The root of the command line. It loads the one command that is asked for and knows the others by their metadata.

Typer has no lazy commands, so the root is made in two passes: the first word of the arguments names an entry point of
the group ``ssm.commands``; that Typer app is loaded and added, all others stand in the help page as empty commands.
"""

from __future__ import annotations

import copy
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ssm_core.allocator import keep_freed_memory
from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_lab import console, plugin_commands, stdout
from ssm_lab.about import COMMANDS, OTHERS

COMPLETING = "_SSM_COMPLETE"
"""Environment variable that a shell sets when it asks for completions."""

INTERRUPTED = 130
"""Status of a command that Ctrl-C ended, as Typer and shells have it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ssm``; always ends in :class:`SystemExit`.

    Status 0 is done, 1 is a failed run or a standard output that cannot be written, 2 is bad input, 130 is an
    interrupt. A reader of standard output that leaves early, as ``head`` does, ends the command with 0.

    Args:
        argv: Arguments without the program's name; those of the process if not given.
    """
    with stdout.guarded():
        _main(list(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> None:
    keep_freed_memory()
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"] or ["--help"]
    try:
        root(argv)(args=argv, prog_name="ssm")
    except UserError as error:
        if COMPLETING in os.environ:  # a word half typed: nothing to offer, and no place to complain
            sys.exit(0)
        if debug:
            traceback.print_exc()
        console.complain(error)
        sys.exit(2)
    except KeyboardInterrupt:  # while plugins were being imported
        console.interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as end:  # Typer's, which turns an interrupt of the command into this
        if end.code == INTERRUPTED:
            console.interrupted()
        raise


def root(argv: Sequence[str]) -> typer.Typer:
    """Return the root app with the asked-for command loaded.

    Raises:
        PluginError: If the first word names no command, two, or a broken one.
    """
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(_options)
    asked = _asked(argv)
    owners: dict[str, list[registry.Entry]] = {}
    for entry in registry.found("command"):
        owners.setdefault(entry.name, []).append(entry)
    # Ours in the order of the table, the others after them by name.
    for name in sorted(owners, key=lambda n: list(COMMANDS).index(n) if n in COMMANDS else len(COMMANDS)):
        if asked not in owners[name]:
            _add_empty(app, name, owners[name])
    if asked is not None:
        _add(app, asked, _first_word(argv))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        python = sys.version.split()[0]
        console.emit(f"ssm-lab {version('ssm-lab')} (ssm-core {version('ssm-core')}, Python {python})")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Long-sequence modelling with state-space models: train, evaluate and compare, with plug-in parts."""


def _first_word(argv: Sequence[str]) -> str | None:
    # Completion runs the program with the words in the environment: bash in the first variable, others in the second.
    if COMPLETING in os.environ:
        typed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
        argv = typed.split()[1:]
    return next((word for word in argv if not word.startswith("-")), None)


def _asked(argv: Sequence[str]) -> registry.Entry | None:
    word = _first_word(argv)
    if word is None:
        return None
    if COMPLETING in os.environ and word not in {entry.name for entry in registry.found("command")}:
        return None
    return registry.find("command", word)


def _add(app: typer.Typer, entry: registry.Entry, name: str | None) -> None:
    loaded = plugin_commands.load(entry)
    if plugin_commands.is_group(loaded):
        app.add_typer(loaded, name=name)
        return
    command = copy.copy(loaded.registered_commands[0])
    command.name = name
    app.registered_commands.append(command)


def _add_empty(app: typer.Typer, name: str, owners: Sequence[registry.Entry]) -> None:
    from rich.markup import escape

    panel, text = OTHERS, owners[0].summary
    if len(owners) > 1:
        text = f"Declared {len(owners)} times: run one as {' or '.join(owner.long_name for owner in owners)}."
    elif owners[0].dist == "ssm-lab" and name in COMMANDS:
        panel, text = COMMANDS[name]
    app.command(name, help=escape(text), rich_help_panel=panel)(_nothing)


def _nothing() -> None:
    """Stand in the help page for a command that is not loaded."""
