"""``ssm report``: runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssm_core.plugin.errors import UserError
from ssm_lab import console

app = typer.Typer()


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, of one task or several.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="Where the page goes.")
    ] = Path("report.html"),
) -> None:
    """Write runs into one page of HTML: comparison, results, pictures, settings, data."""
    with console.results_only():
        from ssm_eval import html_report

        text = html_report(runs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "name another place with -o") from None
    console.emit(str(out.absolute()))
