"""``ssm predict``: what a trained run answers to rows of the user's own."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

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
    as_json: options.Json = False,
) -> None:
    """Ask a trained run about rows of your own.

    The best checkpoint answers. Each answer is a line: the row, the element if each element is asked, and the class
    with its probability or the numbers.
    """
    if out is not None and out.suffix not in KINDS:
        raise UserError(f"-o {out} says no kind of file that can be written", f"known: {', '.join(KINDS)}")
    with console.results_only():
        from ssm_eval import predict_run
        from ssm_train.display import Display

        with Display() as display:
            found = predict_run(run, source, progress=display.progress)
    console.say(f"{found.run}: step {found.step}, {len(found.rows)} rows of {source}")
    if out is not None:
        _write(found, out)
        console.emit(str(out.absolute()))
    elif as_json:
        console.emit_json(_told(found))
    else:
        _write_csv(list(found.answers()), sys.stdout)


def _write(found: Predictions, out: Path) -> None:
    """Write answers in the kind of file that the name says.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npz":
            found.save(out)
        elif out.suffix == ".json":
            from ssm_core.json_text import json_text

            out.write_text(json_text(_told(found)) + "\n", encoding="utf-8")
        else:
            with out.open("w", encoding="utf-8", newline="") as file:
                _write_csv(list(found.answers()), file)
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


def _write_csv(answers: Sequence[Mapping[str, Any]], file: IO[str]) -> None:
    writer = csv.DictWriter(file, list(answers[0]) if answers else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(answers)
