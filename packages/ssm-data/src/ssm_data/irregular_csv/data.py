"""The splits of a table, from the cache."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Progress
from ssm_data import cache, files
from ssm_data.classify import UNLABELLED
from ssm_data.irregular_csv.series import READER, SPLITS, Table, has_dates, read, targets_by_series
from ssm_data.irregular_csv.spec import IrregularCsvConfig
from ssm_data.irregular_csv.table import wrong
from ssm_data.series.facts import Facts, median_gap, scale
from ssm_data.series.split import SeriesSplit, chosen
from ssm_data.sources import counted

log = logging.getLogger(__name__)

HOW = ("time", "missing", "scaled", "pooling", "cache", "path")
"""Knobs that no array depends on, and the path, for which the file's stamp stands."""


def find(config: IrregularCsvConfig) -> Path:
    """Return the table.

    Raises:
        UserError: If no path is given, or there is no file.
    """
    if config.path is None:
        raise UserError(
            "irregular-csv found no table: it reads one of yours, and no path is given",
            "--set task.path=FILE.csv, and --set task.time_column=... where its columns have other names",
        )
    path = Path(config.path).expanduser().absolute()
    if not path.is_file():
        raise UserError(
            f"irregular-csv found no table; it looked for\n    {path}", "--set task.path=FILE.csv"
        )
    return path


def load_splits(config: IrregularCsvConfig, progress: Progress | None = None) -> dict[str, SeriesSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the table is nowhere or damaged, or the cache cannot be written.
    """
    path = find(config)
    knobs = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in HOW}
    identity = {"reader": READER, "file": files.stamp([path]), **knobs}

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        table = read(config, path, progress)
        which = dealt(config, path, table)
        series, classes = _asked(config, path, table, which)
        splits = {name: chosen(series, which[name]) for name in SPLITS}
        facts = _facts(config, table, splits, classes)
        told = _told(config, path, table, facts)
        log.info("irregular-csv: %s", told)
        for name in missing:
            yield (
                name,
                {**splits[name], "facts": facts.stored()},
                f"{told}; {len(which[name])} are for {name}",
            )

    parts = cache.obtain(cache.root(config.cache), "irregular-csv", identity, SPLITS, make)
    return {name: SeriesSplit(part) for name, part in parts.items()}


def read_questions(config: IrregularCsvConfig, path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the series of a table without targets: ``name``, ``inputs`` (L, C) and ``time_points`` (L,) of each.

    Args:
        config: Says which column is what.
        path: The table.
        columns: Its columns of values, in the order in which the model takes them.

    Raises:
        UserError: If it is damaged, lacks a column, or its times are numbers where the run's are dates.
    """
    dates = has_dates(config, find(config))
    if has_dates(config, path) != dates:
        kinds = ("dates", "numbers") if dates else ("numbers", "dates")
        raise UserError(
            f"{path}: {config.time_column} holds {kinds[1]}, and the model has learned from {kinds[0]}",
            f"write its times as {kinds[0]}",
        )
    table = read(dataclasses.replace(config, value_columns=tuple(columns), split_column=""), path, asks=False)
    return [
        {"name": name, "inputs": table.values[start:stop], "time_points": table.times[start:stop]}
        for name, start, stop in zip(table.ids, table.offsets[:-1], table.offsets[1:], strict=True)
    ]


def dealt(config: IrregularCsvConfig, path: Path, table: Table) -> dict[str, NDArray[np.int64]]:
    """Return which series are in each split, in the order of the table.

    Raises:
        UserError: If a split gets none.
    """
    n = len(table.ids)
    if table.parts is not None:
        parts = table.parts
    else:
        order = Generator(PCG64(SeedSequence(config.seed))).permutation(n)
        sizes = {
            name: max(1, round(share * n))
            for name, share in (("validation", config.validation), ("test", config.test))
        }
        parts = np.zeros(n, np.int64)
        parts[order[: sizes["test"]]] = SPLITS.index("test")
        parts[order[sizes["test"] : sizes["test"] + sizes["validation"]]] = SPLITS.index("validation")
    which = {name: np.flatnonzero(parts == place) for place, name in enumerate(SPLITS)}
    for name, rows in which.items():
        if not len(rows):
            how = f"{config.split_column} names none" if table.parts is not None else f"there are {n} in all"
            raise wrong(path, 0, f"no series is for {name}: {how}")
    return which


def _asked(
    config: IrregularCsvConfig, path: Path, table: Table, which: dict[str, NDArray[np.int64]]
) -> tuple[dict[str, NDArray], tuple[str, ...]]:
    """Return the series with their targets, and the names of the classes."""
    series = {"offsets": table.offsets, "values": table.values, "times": table.times}
    by_series = config.per == "series"
    targets = targets_by_series(path, config, table) if by_series else table.targets
    if config.target == "value":
        return {**series, ("targets" if by_series else "target_values"): targets}, ()
    trains = np.zeros(len(table.ids), bool)
    trains[which["train"]] = True
    seen = targets[trains if by_series else np.repeat(trains, np.diff(table.offsets))]
    classes = config.classes or tuple(sorted(table.labels[i] for i in np.unique(seen[seen >= 0])))
    if len(classes) < 2:
        raise wrong(
            path,
            0,
            f"{config.target_columns[0]} has {len(classes)} class in training: two or more are needed",
        )
    number = np.array(
        [classes.index(name) if name in classes else -1 for name in table.labels] + [UNLABELLED]
    )
    numbers = number[targets]  # -1, of an empty cell, is the last
    if (numbers == -1).any():
        row = int(np.argmax(numbers == -1))
        line = table.lines[table.offsets[row] if by_series else row]
        name = table.labels[int(targets[row])]
        known = "the classes" if config.classes else "the training split's classes"
        column = config.target_columns[0]
        raise wrong(path, int(line), f"{column} is {name!r}, none of {known}; {did_you_mean(name, classes)}")
    return {**series, ("targets" if by_series else "target_values"): numbers}, classes


def _facts(
    config: IrregularCsvConfig, table: Table, splits: dict[str, Any], classes: tuple[str, ...]
) -> Facts:
    lengths, train = np.diff(table.offsets), splits["train"]
    mean, std = scale(train["values"])
    facts = Facts(
        channels=table.columns,
        longest=int(lengths.max()),
        ragged=bool(lengths.min() < lengths.max()),
        missing=bool(np.isnan(table.values).any()),
        mean=mean,
        std=std,
        unit=config.unit or median_gap(train["times"], train["offsets"]) or 1.0,
        classes=classes,
    )
    if classes:
        return facts
    asked = train["targets" if config.per == "series" else "target_values"]
    target_mean, target_std = scale(asked)
    names = config.target_columns
    return dataclasses.replace(facts, targets=names, target_mean=target_mean, target_std=target_std)


def _told(config: IrregularCsvConfig, path: Path, table: Table, facts: Facts) -> str:
    cut = f"by {config.split_column}" if config.split_column else f"by seed {config.seed}"
    unit = "as the knob says" if config.unit else "the training split's median gap"
    rows = counted(len(table.times), "row")
    return (
        f"{path}, sha256 {files.sha256(path)}: {len(table.ids)} series, {rows}, split {cut}; "
        f"a step is {facts.unit:.9g}, {unit}"
    )
