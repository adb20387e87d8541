"""``ssm doctor``: what this machine has, what runs, what is broken."""

from __future__ import annotations

from collections import defaultdict

import typer

from ssm_lab import console, machine, options

app = typer.Typer()


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has, which backends run and which is taken, and which plugins are broken.

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
    _print_operations(report)
    console.emit_table(
        [{"problem": item["what"], "what is wrong": item["detail"]} for item in report["problems"]]
    )
    if not report["problems"]:
        console.emit("no problems")


def _print_operations(report: dict) -> None:
    """Say what each operation runs on, then once for all what does not run, and why."""
    backends, idle = report["backends"], defaultdict(list)
    rows = []
    for op, states in backends.items():
        runs = [backend for backend, state in states.items() if state == "ok"]
        row = {f"on {device}": backend for device, backend in report["chosen"].get(op, {}).items()}
        rows.append({"operation": op, **row, "runs": ", ".join(runs)})
        for backend, state in states.items():
            if state != "ok":
                idle[backend, state.replace(f"{op} has no", "the operation has no")].append(op)
    console.emit_table(rows)
    console.emit_table(
        [
            {
                "does not run": backend,
                "for": "every operation" if len(ops) == len(backends) else ", ".join(ops),
                "why": why,
            }
            for (backend, why), ops in idle.items()
        ]
    )
