"""Where things are printed: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ssm_core.plugin.errors import UserError

GAP = 3
"""Characters between two columns of a table."""


@functools.cache
def stderr() -> Console:
    """Return the console of messages. Made when first used: rich is half of the start-up."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def say(text: str, *, quiet: bool = False, style: str | None = None) -> None:
    """Print a message to standard error, unless told to be quiet."""
    if not quiet:
        stderr().print(text, style=style)


def complain(error: UserError) -> None:
    """Print the user's error: what is wrong in red, what to do below it."""
    from rich.text import Text

    stderr().print(Text.assemble(("error: ", "bold red"), error.what))
    if error.hint:
        stderr().print(Text(f"  {error.hint}"))


def fail(text: str) -> None:
    """Print why something that was asked for rightly did not work."""
    from rich.text import Text

    stderr().print(Text.assemble(("failed: ", "bold red"), text))


def interrupted(text: str = "interrupted") -> None:
    """Print that Ctrl-C, or another signal, ended the command, and what is known of it."""
    say(text, style="yellow")


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Keep standard output for results: whatever plugins print meanwhile goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def progress_of(logger: str) -> Iterator[None]:
    """Print what a logger says at level INFO to standard error, with the seconds since the block began."""
    began, source = time.monotonic(), logging.getLogger(logger)
    before, handler = source.level, logging.Handler()
    handler.emit = lambda record: say(
        f"{time.monotonic() - began:5.0f} s  {record.getMessage()}", style="dim"
    )
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.removeHandler(handler)
        source.setLevel(before)


def emit(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(f"{text}\n")


def emit_json(value: Any) -> None:
    """Print the result as JSON; a number that is not finite is null there."""
    from ssm_core.json_text import json_text
    from ssm_core.plugin.config import plain

    emit(json_text(plain(value), default=str))


def emit_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, title: str = ""
) -> None:
    """Print rows as a table; numbers to the right, in four digits, and never in two lines.

    On a terminal that is too narrow for the numbers, each row is a column instead, as many side by side as fit.

    Args:
        rows: One mapping a row.
        columns: Keys to show, in order; those of the first row if not given.
        title: Line above the table.
    """
    from rich.console import Console

    if not rows:
        return
    columns = list(rows[0]) if columns is None else columns
    table = _table(rows, columns, title)
    if not sys.stdout.isatty():
        # A pipe has no width: cells must not be folded to that of an imagined terminal, nor lines filled up to it.
        text = io.StringIO()
        Console(file=text, width=1000, color_system=None).print(table)
        emit("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
        return
    console = Console()
    tables = [table] if _fits(table, console.width) else _turned(rows, columns, title, console.width)
    for each in tables:
        console.print(each)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = all(_is_number(row.get(column)) for row in rows)
        justify = "right" if number else "left"
        table.add_column(str(column), justify=justify, overflow="fold", no_wrap=number)
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    return table


def _fits(table: Table, width: int) -> bool:
    """Say whether a table's numbers, headers included, leave its texts ten characters each; texts alone always fit."""
    needed = 0
    for column in table.columns:
        longest = max(len(str(cell)) for cell in (column.header, *column.cells))
        needed += GAP + (longest if column.no_wrap else min(longest, 10))
    return needed <= width or not any(column.no_wrap for column in table.columns)


def _turned(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str, width: int
) -> Iterator[Table]:
    """Yield tables of some rows each, in which a row is a column."""
    numbers = [_cell(row.get(c)) for row in rows for c in columns if _is_number(row.get(c))]
    wide = GAP + max(10, *map(len, numbers))
    side_by_side = max(1, (width - GAP - max(map(len, columns))) // wide)
    for start in range(0, len(rows), side_by_side):
        part = rows[start : start + side_by_side]
        names = [str(start + 1 + index) for index in range(len(part))]
        lines = [{"": c} | {n: _cell(r.get(c)) for n, r in zip(names, part, strict=True)} for c in columns]
        table = _table(lines, ["", *names], title if not start else "")
        table.columns[0].no_wrap = True
        yield table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
