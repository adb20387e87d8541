"""``ssm doctor``: what this machine has, what runs, what is broken."""

from __future__ import annotations

import typer

from ssm_lab import console, machine, options

app = typer.Typer()


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has, which backends run, and which plugins are broken.

    Ends with status 1 if something is broken; the report says what.
    """
    with console.results_only():
        report = machine.report()
    if as_json:
        console.emit_json(report)
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(1)


def _print(report: dict) -> None:
    for part in ("machine", "versions"):
        rows = [
            {part: name, "": "none" if value in (None, []) else value} for name, value in report[part].items()
        ]
        console.emit_table(rows)
    rows = [
        {"operation": op, "backend": backend, "runs": state}
        for op, backends in report["backends"].items()
        for backend, state in backends.items()
    ]
    console.emit_table(rows)
    console.emit_table(
        [{"problem": item["what"], "what is wrong": item["detail"]} for item in report["problems"]]
    )
    if not report["problems"]:
        console.emit("no problems")
