"""``ssm config``: configurations shown, checked and compared; loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssm_core.plugin.config import Tree, to_toml
from ssm_core.run.config import RunConfig
from ssm_lab import assemble, console, options
from ssm_lab.diff import ABSENT, differences

app = typer.Typer(help="Show, check and compare run configurations.")


@app.command()
def show(
    backbone: options.Backbone = None,
    addon: options.Addon = None,
    task: options.TaskName = None,
    recipe: options.Recipe = None,
    config: options.ConfigFiles = None,
    sets: options.Set = None,
) -> None:
    """Print every setting of a run with its value and meaning, as TOML.

    The output is a file for --config: `ssm config show --backbone s5 --task pendulum > run.toml`.
    """
    with console.results_only():
        flags = assemble.Flags(
            backbone=backbone,
            addons=addon or None,
            task=task,
            recipe=recipe,
            files=config or (),
            sets=sets or (),
        )
        text = assemble.run_config(flags).to_toml()
    console.emit(text)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML files or run folders.")],
) -> None:
    """Check configuration files: names, settings, types and what belongs together."""
    for file in files:
        with console.results_only():
            config = assemble.run_config(assemble.Flags(files=[file]))
        console.say(f"{file}: fine ({_parts(config)})")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="TOML file or run folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="TOML file or run folder.")],
    as_json: options.Json = False,
) -> None:
    """Print the settings in which two configurations differ, once resolved."""
    with console.results_only():
        found = differences(_resolved(first), _resolved(second))
    if as_json:
        console.emit_json([item._asdict() for item in found])
    elif not found:
        console.say("no difference")
    else:
        a, b = (str(first), str(second)) if first != second else ("first", "second")
        console.emit_table([{"setting": x.setting, a: _text(x.first), b: _text(x.second)} for x in found])


def _text(value: object) -> str:
    # As in a file, so that 1 and "1" can be told apart.
    return str(value) if value is None or value == ABSENT else to_toml(value)


def _resolved(file: Path) -> Tree:
    return assemble.run_config(assemble.Flags(files=[file])).to_tree()


def _parts(config: RunConfig) -> str:
    backbone = config.label() if config.backbone else "no backbone"
    return f"{backbone} on {config.task.short if config.task else 'no task'}"
