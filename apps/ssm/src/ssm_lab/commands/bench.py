"""``ssm bench``: a timing, with the check that what is timed is right."""

from __future__ import annotations

from typing import Annotated

import typer

from ssm_core.plugin import registry
from ssm_lab import complete, console, measured, options
from ssm_lab.knobs import knobs

app = typer.Typer()


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete.names("bench"), help="Name of the bench.")
    ],
    sets: options.Knob = None,
    picture: options.Picture = None,
    as_json: options.Json = False,
) -> None:
    """Time an operation or a layer, with its correctness check."""
    measured.check_picture(picture)
    with console.results_only(), console.progress_of("ssm_core.bench"):
        config = registry.configure("bench", name, knobs("bench", sets))
        _, run = registry.builder("bench", name)
        result = run(config)
    measured.show(result, f"bench '{name}'", as_json)
    measured.keep(result, f"bench '{name}'", picture)
