"""``ssm study``: a grid of runs with the comparisons to report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssm_core.plugin.config import parse_set
from ssm_lab import assemble, complete, console, options

if TYPE_CHECKING:
    from ssm_train.study.folder import StudyFolder
    from ssm_train.study.plan import Plan

app = typer.Typer()

STUDIES = Path("studies")
"""Root of the studies' folders, if ``--out`` names no other."""


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=complete.names("study"), help="Name of the study, or a .toml file."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Its folder, studies/NAME if not given.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0-4", help="Instead of its own: 0-4 or 0,2,5.")
    ] = None,
    sets: options.Set = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="AXIS=LEVEL", help="Run these cells only. May be given more than once."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=0, help="Processes at once; 0 is one a GPU, or one a core."
        ),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report what is finished, and run nothing.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a study: all its models and seeds, side by side, and what they say.

    It goes on where it stopped: what is done is not done again. Its folder gets results.json, table.md and figure.png,
    written anew after each run; standard output carries the table, or with --json the results.
    """
    with console.results_only():
        from ssm_train.study.folder import StudyFolder
        from ssm_train.study.plan import make_plan
        from ssm_train.study.reading import find_study, parse_only

        found = find_study(name)
        plan = make_plan(
            found,
            seeds=None if seeds is None else assemble.seeds(seeds),
            only=parse_only(found, only or ()),
            overrides=parse_set(sets or ()),
        )
        folder = StudyFolder(out or STUDIES / found.name)
    if dry_run:
        _describe(plan, folder, as_json)
        return
    with console.results_only():
        results, failed, stopped = _run(plan, folder, workers, report_only, quiet)
    _print(results, folder, as_json, quiet)
    for job, reason in failed.items():
        console.fail(f"{job}: {reason}")
    if stopped:
        console.interrupted(f"the study is interrupted by {stopped}; the same command goes on with it")
    if failed or stopped:
        raise typer.Exit(1)


def _run(
    plan: Plan, folder: StudyFolder, workers: int, report_only: bool, quiet: bool
) -> tuple[dict[str, Any], dict[str, str], str]:
    """Return the results, why what failed, and the signal that stopped it, if one did."""
    from ssm_train.study.report import Report

    report = Report(plan, folder)
    if report_only:
        return report.write(last=True), {}, ""
    from ssm_train.study.execution import execute

    outcome = execute(plan, folder, workers=workers, quiet=quiet, told=report.write)
    return report.write(last=True), outcome.failed, outcome.interrupted


def _print(results: dict[str, Any], folder: StudyFolder, as_json: bool, quiet: bool) -> None:
    from ssm_train.study.report import cell_rows, comparison_rows, missing_line, threshold_rows

    if as_json:
        console.emit_json(results)
    else:
        what = f"mean over seeds ± half of its {results['level']:.0%} interval"
        title = f"{results['study']}: test {results['metric']}, {what}"
        console.emit_table(cell_rows(results), title=title)
        console.emit_table(comparison_rows(results), title="comparisons, paired by seed")
        if rows := threshold_rows(results):
            console.emit_table(rows, title="size at which the metric has its multiple, over seeds")
    if line := missing_line(results):
        console.say(line, quiet=quiet)
    written = [file.name for file in sorted(folder.path.iterdir()) if file.is_file()]
    console.say(f"in {folder.path}: {', '.join(written)}", quiet=quiet)


def _describe(plan: Plan, folder: StudyFolder, as_json: bool) -> None:
    """Say what would be run."""
    from ssm_train.study.comparisons import outlook, outlook_lines
    from ssm_train.study.execution import undone
    from ssm_train.study.left import duration, expected

    jobs = plan.jobs()
    left = undone(plan, folder)
    seconds = expected(folder, jobs, left)
    if as_json:
        done = {job.key for job in jobs} - {job.key for job in left}
        rows = [{"run": job.name, "done": job.key in done, "config": job.config.to_tree()} for job in jobs]
        console.emit_json(
            {
                "study": plan.study.name,
                "runs": rows,
                "seconds_left": seconds,
                "comparisons": outlook(plan),
            }
        )
        return
    names = {job.key for job in left}
    console.emit_table([{"run": job.name, "state": "" if job.key in names else "done"} for job in jobs])
    about = "" if seconds is None else f", about {duration(seconds)} of work for one process"
    tests = len(plan.study.tests)
    console.say(
        f"study {plan.study.name}: {len(plan.chosen)} cells, {len(jobs)} runs, {len(left)} to do{about}; "
        f"each tested under {tests} condition{'s' if tests > 1 else ''}"
    )
    for line in outlook_lines(plan):
        console.say(line)
