"""``ssm new``: a third-party package to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssm_core.plugin.errors import install
from ssm_lab import console, scaffold

app = typer.Typer()


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in scaffold.SAYS if kind.startswith(incomplete)]


@app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", autocompletion=_kinds, help=f"One of {', '.join(scaffold.SAYS)}."),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin, such as my-ssm.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to make the package's folder.")
    ] = Path(),
) -> None:
    """Write a working third-party package to begin from.

    It installs, is found by its entry point, and passes the conformance suite as written. Its path is printed.
    """
    folder = scaffold.write(kind, name, out)
    ready = install(f"-e '{folder}[testing]'")
    console.say(f"next: {ready} && uv run pytest {folder}, then ssm show {kind} {name}")
    console.emit(str(folder))
