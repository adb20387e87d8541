"""``ssm data``: the data of a task, made and described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ssm_core.plugin import registry
from ssm_lab import complete, console, options
from ssm_lab.knobs import knobs

if TYPE_CHECKING:  # the protocols load torch
    from ssm_core.protocols import Progress

app = typer.Typer(help="Make the data of a task, and say what it is.")

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", autocompletion=complete.names("task"), help="Name of the task.")
]


@app.command()
def prepare(task: TaskArgument, sets: options.Knob = None, quiet: options.Quiet = False) -> None:
    """Make or fetch the data of a task, so that training finds it in the cache."""
    values = knobs("task", sets)
    with console.results_only():
        built = registry.build_task(task, values)
        with _bars(quiet) as show:
            built.prepare(show)
        sizes = {name: len(split) for name, split in built.splits().items()}
    console.say(f"{task}: {', '.join(f'{name} {size}' for name, size in sizes.items())} rows", quiet=quiet)


@app.command()
def info(task: TaskArgument, sets: options.Knob = None, as_json: options.Json = False) -> None:
    """Print size, origin, shapes and hashes of every split; makes the data if need be."""
    with console.results_only():
        from ssm_data.info import info as describe

        values = knobs("task", sets)
        with _bars() as show:
            about = describe(task, show, **values)
    if as_json:
        console.emit_json(about)
        return
    for name, split in about["splits"].items():
        rows = [{"array": key, **array} for key, array in split["arrays"].items()]
        console.emit(f"{about['task']} {name}: {split['size']} rows, {split['provenance']}")
        console.emit_table(rows, list(dict.fromkeys(key for row in rows for key in row)))


@contextlib.contextmanager
def _bars(quiet: bool = False) -> Iterator[Progress]:
    """Show on standard error, and only while it lasts, how far the data of a task are made."""
    from rich.progress import Progress as Bars

    with Bars(console=console.stderr(), disable=quiet, transient=True) as bars:
        known = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=total)

        yield show
