"""The rows of a ``.ts`` file, one series a line, read as a stream; every error names file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssm_data.ts.header import Header, lines, read_header, wrong
from ssm_data.ts.numbers import finite, numbers
from ssm_data.ts.times import pairs, together

READER = 2
"""Raised when the arrays from the same files change, or files are refused that were not."""

OUTSIDE_BRACKETS = re.compile(r":(?![^()]{0,64}\))")
"""What stands between channels; times of day have colons too. No pair is longer: to look on to the end of the
line at each of its colons could take for ever."""


class Series(NamedTuple):
    """A series.

    Attributes:
        line: Where it stands in its file, from 1.
        values: float32 (L, C), NaN where a value is missing.
        times: float64 (L,), in the file's unit or in seconds; None without time stamps.
        label: The name of its class, or its number as text; empty if it was not looked at.
    """

    line: int
    values: NDArray[np.float32]
    times: NDArray[np.float64] | None
    label: str


def read(path: Path, *, asks: bool = True) -> tuple[Header, Iterator[Series]]:
    """Read a file's head, and its series as they are asked for.

    Args:
        path: The file.
        asks: Whether rows have to have labels; if not, those that they have are not looked at.

    Raises:
        UserError: If the file is damaged; it names the line. Of the series that happens when they are read.
    """
    numbered = lines(path)
    header = read_header(path, numbered, asks)
    return header, _series(path, header, numbered, asks)


def _series(path: Path, header: Header, numbered: Iterator[tuple[int, str]], asks: bool) -> Iterator[Series]:
    channels, number = header.channels, 0
    for number, text in numbered:
        try:
            fields = OUTSIDE_BRACKETS.split(text) if header.timestamps else text.split(":")
            label = fields.pop() if header.classes or header.values else ""
            channels = channels or len(fields)
            if len(fields) != channels:
                raise ValueError(
                    f"{len(fields)} channels and a label, not {channels}: a row is CHANNEL:CHANNEL:LABEL"
                )
            values, times = _stamped(fields) if header.timestamps else (_plain(fields), None)
            if header.length not in (None, len(values)):
                raise ValueError(f"the series has {len(values)} elements; the head says {header.length}")
            yield Series(number, values, times, _label(label.strip(), header) if asks else "")
        except ValueError as error:
            raise wrong(path, number, str(error)) from None
    if number == 0:
        raise wrong(path, 0, "it has no series below @data")


def _plain(fields: list[str]) -> NDArray[np.float32]:
    columns = [numbers(text, f"channel {i}") for i, text in enumerate(fields, 1)]
    for i, column in enumerate(columns[1:], 2):
        if len(column) != len(columns[0]):
            raise ValueError(f"channel {i} has {len(column)} values, channel 1 has {len(columns[0])}")
    return np.stack(columns, axis=1)


def _stamped(fields: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    return together([pairs(text, f"channel {i}") for i, text in enumerate(fields, 1)])


def _label(word: str, header: Header) -> str:
    if header.values:
        try:
            finite(word)
        except ValueError:
            raise ValueError(
                f"the row ends with {word[:40]!r}, not with the number (finite in float32) that is asked for"
            ) from None
        return word
    if word not in header.classes:
        raise ValueError(f"the label {word[:40]!r} is none of the head's: {', '.join(header.classes)}")
    return word
