"""A table in a text file, read block by block so that its size does not matter; every error names file and line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Progress

ROWS = 1 << 13
"""Rows of a block: few enough for the processor's cache, which is worth a factor of two."""

LONGEST = 1 << 24
"""Characters of the longest line that is read: a file without line ends would else fill the memory."""

NAMED = 20
"""Most columns that a message names."""


class Block(NamedTuple):
    """Some rows that follow each other.

    Attributes:
        lines: The line of the file on which each row ends (n,), from 1.
        cells: Column -> its n cells.
    """

    lines: NDArray[np.int64]
    cells: dict[str, tuple[str, ...]]


def wrong(path: Path, line: int, what: str) -> UserError:
    """Return the error for a bad line, counted from 1; 0 is the file as a whole."""
    where = f"line {line}" if line else "the file as a whole"
    return UserError(f"{path}, {where}: {what}", "mend the table; nothing of it was kept")


def columns_of(path: Path, delimiter: str) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        UserError: If it has none, or one is named twice.
    """
    with _reader(path, delimiter) as reader:
        return _header(path, reader)


def blocks(
    path: Path, delimiter: str, wanted: Sequence[str], progress: Progress | None = None
) -> Iterator[Block]:
    """Yield the rows of a table; empty lines are left out.

    Args:
        path: The file, packed with gzip if its name ends in .gz.
        delimiter: What stands between columns.
        wanted: Names of the columns that are kept.
        progress: Told of the rows read.

    Raises:
        UserError: If the file is missing, empty, damaged or not UTF-8, lacks a column, or a row has another number of
            columns.
    """
    with _reader(path, delimiter) as reader:
        names = _header(path, reader)
        for name in wanted:
            if name not in names:
                raise wrong(path, 1, f"there is no column '{name}'; {did_you_mean(name, names[:NAMED])}")
        seen = 0
        while True:
            before = reader.line_num
            if not (held := list(itertools.islice(reader, ROWS))):
                break
            lines = _lines(held, before, reader.line_num)
            held, lines = _whole(path, names, held, lines)
            if held:
                columns = dict(zip(names, zip(*held, strict=True), strict=True))
                yield Block(lines, {name: columns[name] for name in wanted})
            seen += len(held)
            if progress:
                progress(f"irregular-csv: reading {path.name}", seen, seen)
        if not seen:
            raise wrong(path, 0, "it has no rows below its head")


def _lines(rows: list[list[str]], before: int, after: int) -> NDArray[np.int64]:
    """Return the line on which each row ends, given that before the first and that of the last."""
    if after - before == len(rows):
        return np.arange(before + 1, after + 1)
    # Some cell in quotes goes over several lines.
    return before + np.cumsum([1 + sum(cell.count("\n") for cell in row) for row in rows])


def _whole(
    path: Path, names: list[str], rows: list[list[str]], lines: NDArray[np.int64]
) -> tuple[list[list[str]], NDArray[np.int64]]:
    """Return the rows that are not empty, if all of them have a cell for every column."""
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    if (sizes == len(names)).all():
        return rows, lines
    full = np.flatnonzero(sizes)
    rows, lines, sizes = [rows[i] for i in full], lines[full], sizes[full]
    if (sizes != len(names)).any():
        row = int(np.argmax(sizes != len(names)))
        named = ", ".join(names[:NAMED]) + (", ..." if names[NAMED:] else "")
        raise wrong(path, int(lines[row]), f"{sizes[row]} columns, not {len(names)} ({named})")
    return rows, lines


def _header(path: Path, reader: Any) -> list[str]:
    names = [cell.strip() for cell in next(reader, [])]
    if not any(names):
        raise wrong(path, 0, "the file is empty" if not names else "the first line names no columns")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise wrong(path, 1, f"the column '{twice[0]}' is named twice")
    return names


@contextlib.contextmanager
def _reader(path: Path, delimiter: str) -> Iterator[Any]:
    """Open a table; inside, a ``csv.reader``, whose errors come out as ours, with the line."""
    reader, line = None, 0
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as unpacked:
            file = io.TextIOWrapper(cast("BinaryIO", unpacked), encoding="utf-8-sig", newline="")
            reader = csv.reader(_bounded(path, file), delimiter=delimiter, strict=True)
            yield reader
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        line = reader.line_num if reader else 0
        raise _told(path, line, error) from error


def _bounded(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise wrong(path, number, f"a line of more than {LONGEST} characters")
        yield line


def _told(path: Path, line: int, error: Exception) -> UserError:
    """Return the error that says what went wrong behind a line."""
    if isinstance(error, UnicodeDecodeError):  # text is decoded in blocks: it may stand somewhat further down
        return wrong(path, line + 1, f"here or somewhat below is a byte that is not UTF-8 ({error.reason})")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return wrong(path, line + 1, f"the packed file is damaged or cut short ({error})")
    if isinstance(error, OSError):
        return wrong(path, 0, f"it cannot be read ({error.strerror or error})")
    return wrong(path, line, f"the row cannot be told apart into columns ({error})")
