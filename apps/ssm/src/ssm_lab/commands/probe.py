"""``ssm probe``: a measurement on a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_lab import complete, console, measured, options
from ssm_lab.knobs import flags_as_sets, knobs

app = typer.Typer()


class Flagged(TyperCommand):
    """Takes the flags of the probe that it is to run, beside its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        return super().parse_args(ctx, flags_as_sets("probe", args))


@app.command(cls=Flagged)
def probe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete.names("probe"), help="Name of the probe.")
    ],
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder; some probes need none.")
    ] = None,
    sets: options.Knob = None,
    picture: options.Picture = None,
    as_json: options.Json = False,
) -> None:
    """Look into a trained model with a probe.

    The probe gets the best checkpoint of the run and the test split of its task. Text and tables go to standard
    output. With RUN the picture goes to plots/probe-NAME.png of the run if --picture names no other place, and files
    that the probe makes go beside it. Knobs that a probe calls its flags need no --set: `ssm show probe NAME` lists
    both.
    """
    measured.check_picture(picture)
    with console.results_only():
        config = registry.configure("probe", name, knobs("probe", sets))
        spec, measure = registry.builder("probe", name)
        model, dataset = (None, None) if run is None else _open(run)
        result = measure(model, dataset, config)
    if picture is None and run is not None:
        picture = run / "plots" / f"probe-{spec.name}.png"
    measured.show(result, f"probe '{name}'", as_json)
    measured.keep(result, f"probe '{name}'", picture)


def _open(run: Path) -> tuple[Any, Any]:
    from ssm_core import load

    model, _ = load(run)
    model.task.prepare()
    splits = model.task.splits()
    if "test" not in splits:
        raise UserError(f"the task of {run} has no test split", f"it has {', '.join(splits)}")
    return model, splits["test"]
