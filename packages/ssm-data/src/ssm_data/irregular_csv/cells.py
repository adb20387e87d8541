"""Cells as numbers and as times; what is none of them is an error that names the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_data.irregular_csv.table import wrong

LARGEST = float(np.finfo(np.float32).max)
"""Of values, which are kept as float32."""

MOST = float(np.finfo(np.float64).max)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ABSENT = frozenset(("", "nan", "na", "n/a", "nil", "null", "none", "?"))
"""What stands for a missing value, in lower case."""

NO_NUMBER = "not a finite number (of float32), nor an empty cell for a missing value"
NO_TIME = "not a finite number, as the first time of the table is"
NO_FIRST = "neither a finite number nor a date (ISO 8601, such as 2010-03-24T09:51:00)"
NO_DATE = "not a date (ISO 8601, such as 2010-03-24T09:51:00), as the first time of the table is"
MIXED = "some dates name their time zone and some do not"


class Column:
    """A column of a table, block by block.

    Args:
        path: The table, for messages.
        name: The column.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.dates: bool | None = None
        self.zoned: bool | None = None

    def values(self, cells: Sequence[str], lines: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return cells as numbers (n,), NaN for a missing value.

        Raises:
            UserError: If a cell is neither a finite number nor a missing value.
        """
        return self._read(cells, lines, _value, lambda _: NO_NUMBER)

    def times(self, cells: Sequence[str], lines: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return cells as times (n,): numbers as they are, dates as seconds since 1970, UTC if they name no zone.

        The first cell of the table says which of the two they are.

        Raises:
            UserError: If a cell is no time, or of another kind than the first.
        """
        if self.dates is None:
            first = cells[0].strip()
            self.dates = _is_date(first) and not _is_number(first)
            if not self.dates and not _is_number(first):
                raise wrong(self.path, int(lines[0]), f"{self.name} is {first[:40]!r}, {NO_FIRST}")
        if self.dates:
            return self._read(cells, lines, self._date, lambda cell: MIXED if _is_date(cell) else NO_DATE)
        return self._read(cells, lines, _finite, lambda _: NO_TIME)

    def _read(
        self,
        cells: Sequence[str],
        lines: NDArray[np.int64],
        read: Callable[[str], float],
        reason: Callable[[str], str],
    ) -> NDArray[np.float64]:
        largest, dates = LARGEST if read is _value else MOST, read == self._date
        try:  # nearly every block has nothing but finite numbers and empty cells
            if not dates and "_" in "".join(cells):
                raise ValueError  # float() would take 1_0 for 10
            if read is _value and "" in cells:
                found = np.array([float(cell) if cell else np.nan for cell in cells])
                good = np.isnan(found).sum() == cells.count("") and not (np.abs(found) > largest).any()
            else:
                found = np.array(list(map(self._date if dates else float, cells)))
                good = (np.abs(found) <= largest).all()
            if good:
                return found
        except ValueError:
            pass
        out = np.empty(len(cells))
        for place, cell in enumerate(cells):
            try:
                out[place] = read(cell.strip())
            except ValueError:
                what = f"{self.name} is {cell.strip()[:40]!r}, {reason(cell.strip())}"
                raise wrong(self.path, int(lines[place]), what) from None
        return out

    def _date(self, cell: str) -> float:
        date = datetime.fromisoformat(cell.strip())
        zoned = date.tzinfo is not None
        if self.zoned is None:
            self.zoned = zoned
        if zoned != self.zoned:
            raise ValueError(MIXED)
        return ((date if zoned else date.replace(tzinfo=UTC)) - EPOCH).total_seconds()


def _value(cell: str) -> float:
    if cell.lower() in ABSENT:
        return np.nan
    if abs(number := _finite(cell)) > LARGEST:
        raise ValueError
    return number


def _finite(cell: str) -> float:
    if not math.isfinite(number := _number(cell)):
        raise ValueError
    return number


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        _finite(cell)
    except ValueError:
        return False
    return True


def _is_date(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True
