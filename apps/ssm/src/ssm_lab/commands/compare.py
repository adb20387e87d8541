"""``ssm compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssm_lab import console, options

app = typer.Typer()


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; seeds of a setting make one row.")
    ],
    as_json: options.Json = False,
) -> None:
    """Put runs side by side: metrics over seeds, parameters, time."""
    with console.results_only():
        from ssm_eval import compare_runs

        comparison = compare_runs(runs)
    if as_json:
        console.emit_json(comparison.rows)
    else:
        console.emit_table(comparison.rows, comparison.columns, comparison.title)
    for note in comparison.notes:
        console.say(f"note: {note}")
