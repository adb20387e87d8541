"""The splits of a ``.ts`` data set: where its files are, and from the cache."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, files, sources
from ssm_data.ragged import packed
from ssm_data.series.facts import Facts, median_gap, scale
from ssm_data.series.split import SeriesSplit, chosen, held_out
from ssm_data.ts.header import Header, wrong
from ssm_data.ts.read import READER, read
from ssm_data.ts.spec import TsConfig

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

SHOWN = 1000
"""Series between two reports of progress."""


def find(config: TsConfig) -> dict[str, Path]:
    """Return the training and the test file.

    Raises:
        UserError: If they are nowhere.
    """
    name = config.dataset
    names = {"train": f"{name}_TRAIN.ts", "test": f"{name}_TEST.ts"}
    folders = [
        *sources.candidates((name, f"Multivariate_ts/{name}", f"Univariate_ts/{name}", ""), config.root),
        *([] if config.root else _of_aeon(name)),
    ]
    for folder in folders:
        if all((folder / file).is_file() for file in names.values()):
            return {part: folder / file for part, file in names.items()}
    raise sources.missing(
        "ts",
        folders,
        files=f"data set {name} ({names['train']} and {names['test']}; some come with aeon: "
        "pip download --no-deps aeon==1.6.0, unpack the wheel, and the root is its aeon/datasets/data)",
    )


def _of_aeon(name: str) -> list[Path]:
    """Return the folder where the package aeon has a data set, if it is installed; it is not imported."""
    found = importlib.util.find_spec("aeon")
    places = found.submodule_search_locations if found else None
    return [Path(place) / "datasets" / "data" / name for place in places or ()]


def load_splits(config: TsConfig, progress: Progress | None = None) -> dict[str, SeriesSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the files are nowhere or damaged, or the cache cannot be written.
    """
    found = find(config)
    identity = {
        "reader": READER,
        "files": files.stamp(found.values()),
        "target": config.target,
        "held_out": None if config.validation == "test" else [config.validation, config.seed],
    }
    names = tuple(name for name in SPLITS if name != "validation" or config.validation != "test")

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        header, parts = _both(config, found, progress)
        splits = _dealt(config, parts)
        facts = _facts(header, splits)
        told = f"{config.dataset} from {found['train'].parent}{_hashes(found)}"
        log.info("ts: %s", told)
        for name in missing:
            yield name, {**splits[name], "facts": facts.stored()}, f"{told}; {_said(config, name, facts)}"

    parts = cache.obtain(cache.root(config.cache), "ts", identity, names, make)
    splits = {name: SeriesSplit(part) for name, part in parts.items()}
    if config.time != "ignored" and splits["train"].facts.unit is None:
        raise UserError(
            f"{found['train']} has no time stamps, and time = {config.time}", "--set task.time=ignored"
        )
    return {name: splits[name if name in splits else "test"] for name in SPLITS}


def read_questions(path: Path, facts: Facts) -> list[dict[str, Any]]:
    """Return the series of a file: ``name``, ``inputs`` (L, C), and ``time_points`` (L,) if there are times.

    Raises:
        UserError: If it is damaged, or has other channels, or times where the facts tell of none.
    """
    rows = []
    for series in read(path, asks=False)[1]:
        width, stamped = series.values.shape[1], series.times is not None
        if width != len(facts.channels) or stamped != (facts.unit is not None):
            raise wrong(
                path,
                series.line,
                f"{width} channels with{'' if stamped else 'out'} times; the model has learned from "
                f"{len(facts.channels)} with{'' if facts.unit is not None else 'out'}",
            )
        times = {"time_points": series.times} if stamped else {}
        rows.append({"name": f"line {series.line}", "inputs": series.values, **times})
    return rows


def _hashes(found: dict[str, Path]) -> str:
    return "".join(f", {path.name} sha256 {files.sha256(path)}" for path in found.values())


def _said(config: TsConfig, name: str, facts: Facts) -> str:
    if config.validation == "test":
        cut = f"the whole {name} file; validation is the test file"
    else:
        cut = f"{config.validation:g} of the training file held out by seed {config.seed}"
    return cut if facts.unit is None else f"{cut}; a step is the median gap, {facts.unit:g}"


def _both(
    config: TsConfig, found: dict[str, Path], progress: Progress | None
) -> tuple[Header, dict[str, dict[str, NDArray]]]:
    header, train = _file(config, found["train"], progress)
    other, test = _file(config, found["test"], progress)
    width, tested = train["values"].shape[1], test["values"].shape[1]
    if (other.classes, other.timestamps, tested) != (header.classes, header.timestamps, width):
        raise wrong(
            found["test"],
            0,
            f"classes {', '.join(other.classes) or 'none'} and {tested} channels; the training file has "
            f"{', '.join(header.classes) or 'none'} and {width}, and both or none have time stamps",
        )
    return header, {"train": train, "test": test}


def _file(config: TsConfig, path: Path, progress: Progress | None) -> tuple[Header, dict[str, NDArray]]:
    header, rows = read(path)
    if header.values != (config.target == "value"):
        has = "numbers (@targetLabel)" if header.values else "classes (@classLabel)"
        other = "value" if header.values else "class"
        raise UserError(f"{path} has {has}, and target = {config.target}", f"--set task.target={other}")
    values, times, labels = [], [], []
    for series in rows:
        values.append(series.values)
        labels.append(series.label)
        if series.times is not None:
            times.append(series.times)
        if progress and len(labels) % SHOWN == 0:
            progress(f"ts: reading {path.name}", len(labels), len(labels))
    held: dict[str, Any] = dict(packed(values))
    if times:
        held["times"] = np.concatenate(times)
    if header.values:
        held["targets"] = np.array([[float(label)] for label in labels], np.float32)
    else:
        held["targets"] = np.array([header.classes.index(label) for label in labels], np.int64)
    return header, held


def _dealt(config: TsConfig, parts: dict[str, dict[str, NDArray]]) -> dict[str, dict[str, NDArray]]:
    """Return the splits; the training file's series keep their order in each."""
    pool = parts["train"]
    if config.validation == "test":
        return {name: {**each} for name, each in parts.items()}
    classes = pool["targets"] if config.target == "class" else np.zeros(len(pool["targets"]))
    apart = held_out(classes, float(config.validation), config.seed)
    if not 0 < apart.sum() < len(apart):
        raise UserError(
            f"{config.dataset} has {len(apart)} training series, too few to hold any out",
            "--set task.validation=test",
        )
    train, validation = (dict(chosen(pool, np.flatnonzero(each))) for each in (~apart, apart))
    return {"train": train, "validation": validation, "test": parts["test"]}


def _facts(header: Header, splits: dict[str, dict[str, NDArray]]) -> Facts:
    lengths = np.concatenate([np.diff(split["offsets"]) for split in splits.values()])
    train = splits["train"]
    mean, std = scale(train["values"])
    facts = Facts(
        channels=tuple(f"channel {i + 1}" for i in range(train["values"].shape[1])),
        longest=int(lengths.max()),
        ragged=bool(lengths.min() < lengths.max()),
        missing=any(bool(np.isnan(split["values"]).any()) for split in splits.values()),
        mean=mean,
        std=std,
        unit=median_gap(train["times"], train["offsets"]) or 1.0 if "times" in train else None,
        classes=header.classes,
    )
    if not header.values:
        return facts
    target_mean, target_std = scale(train["targets"])
    return dataclasses.replace(facts, targets=("target",), target_mean=target_mean, target_std=target_std)
