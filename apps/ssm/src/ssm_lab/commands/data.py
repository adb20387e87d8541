"""``ssm data``: the data of a task, made and described."""

from __future__ import annotations

from typing import Annotated

import typer

from ssm_core.plugin import registry
from ssm_lab import complete, console, options
from ssm_lab.knobs import knobs

app = typer.Typer(help="Make the data of a task, and say what it is.")

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", autocompletion=complete.names("task"), help="Name of the task.")
]


@app.command()
def prepare(task: TaskArgument, sets: options.Knob = None, quiet: options.Quiet = False) -> None:
    """Make or fetch the data of a task, so that training finds it in the cache."""
    from rich.progress import Progress

    values = knobs("task", sets)
    with console.results_only():
        built = registry.build_task(task, values)
        with Progress(console=console.stderr(), disable=quiet, transient=True) as progress:
            bars = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in bars:
                    bars[what] = progress.add_task(what)
                progress.update(bars[what], completed=done, total=total)

            built.prepare(show)
        sizes = {name: len(split) for name, split in built.splits().items()}
    console.say(f"{task}: {', '.join(f'{name} {size}' for name, size in sizes.items())} rows", quiet=quiet)


@app.command()
def info(task: TaskArgument, sets: options.Knob = None, as_json: options.Json = False) -> None:
    """Print size, origin, shapes and hashes of every split; makes the data if need be."""
    with console.results_only():
        from ssm_data.info import info as describe

        about = describe(task, **knobs("task", sets))
    if as_json:
        console.emit_json(about)
        return
    for name, split in about["splits"].items():
        rows = [{"array": key, **array} for key, array in split["arrays"].items()]
        console.emit(f"{about['task']} {name}: {split['size']} rows, {split['provenance']}")
        console.emit_table(rows)
