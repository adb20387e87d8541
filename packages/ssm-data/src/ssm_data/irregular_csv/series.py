"""From the rows of a table to series: where one ends, what its times and targets have to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data.irregular_csv.cells import ABSENT, Column
from ssm_data.irregular_csv.spec import IrregularCsvConfig
from ssm_data.irregular_csv.table import blocks, columns_of, wrong

READER = 1
"""Raised when the arrays from the same table change."""

SPLITS = ("train", "validation", "test")


@dataclass
class Table:
    """A table as series end to end.

    Attributes:
        columns: Names of the value columns.
        ids: What names each series, in their order.
        offsets: Where each begins (n + 1,).
        values: float32 (rows, C), NaN where a value is missing.
        times: float64 (rows,).
        targets: float32 (rows, T), NaN where nothing is asked; for classes the places of names in ``labels``, (rows,);
            empty if they were not looked for.
        labels: Names of classes as they came.
        lines: The line of each row (rows,).
        parts: Place of each series' split in :data:`SPLITS` (n,); None without a split column.
    """

    columns: tuple[str, ...]
    ids: list[str]
    offsets: NDArray[np.int64]
    values: NDArray[np.float32]
    times: NDArray[np.float64]
    targets: NDArray
    labels: list[str]
    lines: NDArray[np.int64]
    parts: NDArray[np.int64] | None = None


def read(
    config: IrregularCsvConfig, path: Path, progress: Progress | None = None, *, asks: bool = True
) -> Table:
    """Read a table as series.

    Args:
        config: Says which column is what.
        path: The table.
        progress: Told of the rows read.
        asks: Whether it has columns of targets; without, they are not looked for.

    Raises:
        UserError: If it is damaged, a cell makes no sense, a series is in two places, or its times do not increase;
            it names the line.
    """
    other = {config.id_column, config.time_column, config.split_column, *config.target_columns}
    found = columns_of(path, config.delimiter)
    columns = config.value_columns or tuple(name for name in found if name not in other)
    if not columns:
        raise wrong(path, 1, "no column is left for values: name some (value_columns)")
    labels, places = dict[str, int](), dict[str, int]()
    asked = config.target_columns if asks else ()
    whole = _whole(config, path, columns, asked, labels, places, progress)
    borders = np.flatnonzero(np.diff(whole["series"])) + 1
    table = Table(
        columns=columns,
        ids=list(places),
        offsets=np.concatenate([[0], borders, [len(whole["series"])]]),
        values=whole["values"],
        times=whole["times"],
        targets=whole.get("targets", np.zeros(0)),
        labels=list(labels),
        lines=whole["lines"],
    )
    _increase(path, config.time_column, table)
    if config.split_column:
        table.parts = _constant(path, config.split_column, whole["parts"], table)
    return table


def has_dates(config: IrregularCsvConfig, path: Path) -> bool:
    """Whether the times of a table are dates, as its first one says.

    Raises:
        UserError: If the table cannot be read, or the first time is none.
    """
    column, first = (
        Column(path, config.time_column),
        next(blocks(path, config.delimiter, [config.time_column])),
    )
    column.times(first.cells[config.time_column][:1], first.lines[:1])
    return bool(column.dates)


def _whole(
    config: IrregularCsvConfig,
    path: Path,
    columns: Sequence[str],
    asked: Sequence[str],
    labels: dict[str, int],
    places: dict[str, int],
    progress: Progress | None,
) -> dict[str, NDArray]:
    """Return the columns of all rows; new labels and series are added to ``labels`` and ``places``."""
    names = dict.fromkeys((config.id_column, config.time_column, *columns, *asked))
    names |= {config.split_column: None} if config.split_column else {}
    numbers = {name: Column(path, name) for name in names}
    held: dict[str, list[NDArray]] = {}

    def hold(name: str, array: NDArray) -> None:
        held.setdefault(name, []).append(array)

    def stacked(
        which: Sequence[str], cells: Mapping[str, Sequence[str]], lines: NDArray
    ) -> NDArray[np.float32]:
        return np.stack([numbers[name].values(cells[name], lines) for name in which], axis=1).astype(
            np.float32
        )

    for lines, cells in blocks(path, config.delimiter, list(names), progress):
        hold("lines", lines)
        hold("series", _series(path, config.id_column, cells[config.id_column], lines, places))
        hold("times", numbers[config.time_column].times(cells[config.time_column], lines))
        hold("values", stacked(columns, cells, lines))
        if asked and config.target == "class":
            hold("targets", _labels(cells[asked[0]], labels))
        elif asked:
            hold("targets", stacked(asked, cells, lines))
        if config.split_column:
            hold("parts", _parts(path, config.split_column, cells[config.split_column], lines))
    return {name: np.concatenate(arrays) for name, arrays in held.items()}


def _series(
    path: Path, column: str, cells: Sequence[str], lines: NDArray[np.int64], places: dict[str, int]
) -> NDArray[np.int64]:
    """Return the number of each row's series (n,), in the order in which they come; adds new ones to ``places``."""
    out = np.empty(len(cells), np.int64)
    last, number = None, len(places) - 1
    for place, cell in enumerate(cells):
        if cell != last:
            name = cell.strip()
            if not name:
                raise wrong(path, int(lines[place]), f"{column} is empty")
            held = places.setdefault(name, len(places))
            # A block goes on with the series that the one before ended with, and with no other.
            if held < len(places) - 1:
                raise wrong(
                    path,
                    int(lines[place]),
                    f"{column} '{name}' was there before other series: the rows of a series stand together, sorted by "
                    "time",
                )
            last, number = cell, held
        out[place] = number
    return out


def _labels(cells: Sequence[str], labels: dict[str, int]) -> NDArray[np.int64]:
    words = (cell.strip() for cell in cells)
    return np.array(
        [-1 if w.lower() in ABSENT else labels.setdefault(w, len(labels)) for w in words], np.int64
    )


def _parts(path: Path, column: str, cells: Sequence[str], lines: NDArray[np.int64]) -> NDArray[np.int64]:
    known = {name: place for place, name in enumerate(SPLITS)}
    out = np.array([known.get(cell.strip(), -1) for cell in cells], np.int64)
    if (out < 0).any():
        place = int(np.argmax(out < 0))
        raise wrong(path, int(lines[place]), f"{column} is {cells[place][:40]!r}, not {', '.join(SPLITS)}")
    return out


def _increase(path: Path, column: str, table: Table) -> None:
    late = np.diff(table.times) <= 0
    late[table.offsets[1:-1] - 1] = False  # from one series to the next
    if late.any():
        row = int(np.argmax(late)) + 1
        series = int(np.searchsorted(table.offsets, row, side="right")) - 1
        raise wrong(
            path,
            int(table.lines[row]),
            f"{column} does not increase in series '{table.ids[series]}': {table.times[row]:.12g} follows "
            f"{table.times[row - 1]:.12g}",
        )


def _constant(path: Path, column: str, values: NDArray, table: Table) -> NDArray:
    """Return the value of each series (n, ...), if it is the same in all its rows."""
    first = values[table.offsets[:-1]]
    spread = np.repeat(first, np.diff(table.offsets), axis=0)
    differs = values != spread
    if np.issubdtype(values.dtype, np.floating):
        differs &= ~(np.isnan(values) & np.isnan(spread))
    if differs.any():
        row = int(np.argmax(differs.reshape(len(differs), -1).any(axis=1)))
        series = int(np.searchsorted(table.offsets, row, side="right")) - 1
        raise wrong(
            path,
            int(table.lines[row]),
            f"{column} is not the same in all rows of series '{table.ids[series]}'",
        )
    return first


def targets_by_series(path: Path, config: IrregularCsvConfig, table: Table) -> NDArray:
    """Return the targets of each series (n, T), or the places of its class in ``labels`` (n,).

    Raises:
        UserError: If rows of a series have different ones, or none.
    """
    first = _constant(path, " and ".join(config.target_columns), table.targets, table)
    absent = (np.isnan(first).all(axis=1)) if config.target == "value" else first < 0
    if absent.any():
        series = int(np.argmax(absent))
        line = int(table.lines[table.offsets[series]])
        raise wrong(path, line, f"series '{table.ids[series]}' has no {' and '.join(config.target_columns)}")
    return first
