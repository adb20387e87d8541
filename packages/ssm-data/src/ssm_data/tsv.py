"""Tab-separated files, read strictly: no quoting, one row a line, every error with its file and row."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ssm_core.plugin.errors import UserError

LONGEST = 1 << 28
"""Bytes of the longest line that is read: a file without line ends would else fill the memory."""


def rows(
    path: Path, columns: Sequence[str], *, header: bool = False, longest: int = LONGEST
) -> Iterator[tuple[int, list[str]]]:
    """Read a tab-separated UTF-8 file, plain or with gzip (``.gz``).

    A quotation mark is a character like any other, and only a line feed ends a row: texts contain quotation marks
    and every other kind of line end that Python's ``str.splitlines`` knows.

    Args:
        path: The file.
        columns: Names of its columns.
        header: The first line holds these names.
        longest: Bytes of the longest line that is read.

    Yields:
        Number of the row, from 1 and without the header, and its fields.

    Raises:
        UserError: If the file is empty, damaged, cut short, not UTF-8, or a row has another number of columns; it
            names file and row.
    """
    number = 0
    for number, line in _lines(path, longest, first=0 if header else 1):
        fields = _decode(path, number, line).split("\t")
        if number == 0:
            if fields != list(columns):
                raise wrong(path, 0, f"the header is not {'<tab>'.join(columns)}")
            continue
        if len(fields) != len(columns):
            raise wrong(path, number, f"{len(fields)} columns, not {len(columns)} ({', '.join(columns)})")
        yield number, fields
    if number == 0:
        raise wrong(path, 0, "the file has no rows")


def wrong(path: Path, row: int, what: str) -> UserError:
    """Return the error for a bad row; 0 is the file as a whole."""
    where = f"row {row}" if row else "the file as a whole"
    return UserError(f"{path}, {where}: {what}", "mend the file or fetch it again; nothing of it was kept")


def _lines(path: Path, longest: int, first: int) -> Iterator[tuple[int, bytes]]:
    number = first
    try:
        with _open(path) as file:
            while line := file.readline(longest + 1):
                if len(line) > longest:
                    raise wrong(path, number, f"a line of more than {longest} bytes")
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")
                number += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise wrong(path, number, f"the compressed file is damaged or cut short ({error})") from error
    except OSError as error:
        raise wrong(path, number, f"it cannot be read ({error.strerror or error})") from error


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise wrong(
            path, number, f"byte {error.start + 1} of the line is not UTF-8 ({error.reason})"
        ) from None
