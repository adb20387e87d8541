"""``ssm eval``: a trained run on a split, also under task settings it was not trained with."""

from __future__ import annotations

from typing import Annotated

import typer

from ssm_core.plugin.config import parse_set
from ssm_lab import console, options

app = typer.Typer()


@app.command("eval")
def evaluate(
    run: options.Run,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="One of train, validation and test.")
    ] = "test",
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Measure a trained run on a split, also under other task settings.

    The best checkpoint is used, and the result is kept under eval/ in the run folder too. Settings such as
    --set task.sample_rate=0.3 are laid over the run's own.
    """
    with console.results_only():
        from ssm_eval import evaluate_run
        from ssm_train.display import Display

        with Display() as display:
            overrides = parse_set(sets or ()) or None
            report = evaluate_run(run, split=split, overrides=overrides, progress=display.progress)
    if as_json:
        console.emit_json(report)
    else:
        console.say(f"{report['run']}: step {report['step']}, {report['split']} split, {report['n']} rows")
        console.emit_table([{"metric": name, "value": value} for name, value in report["metrics"].items()])
    for note in report["notes"]:
        console.say(f"note: {note}")
