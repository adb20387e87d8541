"""``ssm predict``: what a trained run answers to rows of the user's own."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ssm_core.plugin.config import parse_set
from ssm_core.plugin.errors import UserError
from ssm_lab import console, options

if TYPE_CHECKING:
    from ssm_eval import Predictions

app = typer.Typer()

KINDS = (".csv", ".json", ".npz")


@app.command()
def predict(
    run: options.Run,
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Rows as .npz, inputs as .npy, or what the task reads itself, such as a table of irregular-csv.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write a .csv, .json or .npz instead of printing a .csv."
        ),
    ] = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Ask a trained run about rows of your own.

    The best checkpoint answers. Each answer is a line: the row, the element if each element is asked, and the class
    with its probability or the numbers.
    """
    _check(source, out, as_json)
    with console.results_only():
        from ssm_eval import predict_run
        from ssm_train.display import Display

        with Display() as display:
            overrides = parse_set(sets or ()) or None
            found = predict_run(run, source, overrides=overrides, progress=display.progress)
    console.say(f"{found.run}: step {found.step}, {len(found.rows)} rows of {source}")
    if out is not None:
        _write(found, out)
        console.emit(str(out.absolute()))
    elif as_json:
        console.emit_json(_told(found))
    else:
        _write_csv(found, sys.stdout)


def _check(source: Path, out: Path | None, as_json: bool) -> None:
    """Refuse what can be known to be wrong before the model is asked."""
    if out is None:
        return
    if out.suffix.lower() not in KINDS:
        raise UserError(f"-o {out} says no kind of file that can be written", f"known: {', '.join(KINDS)}")
    if as_json:
        raise UserError("--json prints, and -o writes", "leave one of them out; -o FILE.json writes JSON")
    if out.resolve() == source.resolve():
        raise UserError(f"-o {out} is the file that is read", "name another one")


def _write(found: Predictions, out: Path) -> None:
    """Write answers in the kind of file that the name says.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".npz":
            found.save(out)
        elif out.suffix.lower() == ".json":
            from ssm_core.json_text import json_text

            out.write_text(json_text(_told(found)) + "\n", encoding="utf-8")
        else:
            with out.open("w", encoding="utf-8", newline="") as file:
                _write_csv(found, file)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "name another place with -o") from None


def _told(found: Predictions) -> dict[str, Any]:
    return {
        "run": found.run,
        "step": found.step,
        "input": found.input,
        "n": len(found.rows),
        "answers": list(found.answers()),
    }


def _write_csv(found: Predictions, file: IO[str]) -> None:
    answers = found.answers()
    first = next(answers, {})
    writer = csv.DictWriter(file, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows(itertools.chain([first] if first else [], answers))
