"""``ssm train``: train one model, or one a seed, or go on with a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_lab import assemble, console, options, resume

app = typer.Typer()

RUNS = Path("runs")
"""Root of the runs, if ``--out`` names no other."""


@app.command()
def train(
    backbone: options.Backbone = None,
    addon: options.Addon = None,
    task: options.TaskName = None,
    recipe: options.Recipe = None,
    config: options.ConfigFiles = None,
    sets: options.Set = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Passes over the training split.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps, instead of epochs.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of the run.")] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0-4", help="One run a seed, in parallel: 0-4 or 0,2,5.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run; auto takes a GPU if it can."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Root of the runs, 'runs' if not given.")
    ] = None,
    resume_run: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with a run; only length, patience, device, threads, workers, tracker, keep and the intervals "
            "of evaluation and checkpoints may change.",
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option("--init-from", metavar="RUN", help="Begin with the best weights of another run."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and the model, and make no run.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model; prints the path of its run folder.

    Standard output carries the absolute path of each run folder, one a line; all else goes to standard error.
    Settings come from defaults, recipe, files, flags and --set, the later the stronger.
    """
    flags = assemble.Flags(
        backbone=backbone,
        addons=addon or None,
        task=task,
        recipe=recipe,
        files=config or (),
        sets=sets or (),
        epochs=epochs,
        steps=steps,
        seed=seed,
        device=device,
    )
    if seeds is not None and seed is not None:
        raise UserError("--seed and --seeds exclude each other", "give one of them")
    if resume_run is not None:
        beside = {"--seeds": seeds, "--out": out, "--init-from": init_from, "--dry-run": dry_run or None}
        if refused := [flag for flag, value in beside.items() if value is not None]:
            raise UserError(f"--resume goes on with one run where it lies, without {', '.join(refused)}")
        _finish(lambda: [_resume(resume_run, flags, quiet)])
        return
    if seeds is not None and init_from is not None:
        raise UserError("--seeds and --init-from exclude each other", "start one run a seed by hand")
    numbers = None if seeds is None else assemble.seeds(seeds)
    with console.results_only():
        resolved = assemble.complete_run(assemble.run_config(flags))
    if dry_run:
        _describe(resolved)
    else:
        _finish(lambda: _fit(resolved, numbers, out or RUNS, init_from, quiet))


def _describe(config: RunConfig) -> None:
    with console.results_only():
        from ssm_train import describe

        text = describe(config)
    console.say(config.to_toml())
    console.say(text)


def _fit(
    config: RunConfig, seeds: list[int] | None, out: Path, init_from: Path | None, quiet: bool
) -> Sequence[Path]:
    from ssm_train import fit, fit_seeds

    if seeds is not None:
        return fit_seeds(config, seeds, out=out, quiet=quiet)
    return [fit(config, out=out, init_from=init_from, quiet=quiet)]


def _resume(run: Path, flags: assemble.Flags, quiet: bool) -> Path:
    from ssm_train import resume as go_on
    from ssm_train.training import CHANGEABLE

    return go_on(run, resume.changes(run, flags, CHANGEABLE), quiet=quiet)


def _finish(job: Callable[[], Sequence[Path]]) -> None:
    """Do the work and print the run folders, that of a run which stopped early included."""
    try:
        _work(job)
    except KeyboardInterrupt:  # once a run has begun, it ends as one that is interrupted
        console.say("no run had begun: nothing was saved")
        raise


def _work(job: Callable[[], Sequence[Path]]) -> None:
    from ssm_train.device import is_main
    from ssm_train.errors import RunInterrupted, TrainingFailed

    try:
        with console.results_only():
            runs = job()
    except TrainingFailed as error:
        (console.interrupted if isinstance(error, RunInterrupted) else console.fail)(str(error))
        for run in error.runs if is_main() else ():
            console.emit(str(run.absolute()))
        raise typer.Exit(1) from None
    for run in runs if is_main() else ():
        console.emit(str(run.absolute()))
