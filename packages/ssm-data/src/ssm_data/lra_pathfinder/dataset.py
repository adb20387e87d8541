"""The splits of Pathfinder, from the cache, which is filled in blocks: what was begun goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache, files, sources
from ssm_data.lra_pathfinder import reader
from ssm_data.lra_pathfinder.generate import GENERATOR, SPLITS, Recipe, pictures, recipe, worth_compiling
from ssm_data.lra_pathfinder.spec import RELEASED, ROWS, SIZES, PathfinderKnobs
from ssm_data.pixels import PixelSplit, Selection

log = logging.getLogger(__name__)

BLOCK_BYTES = {"read": 1 << 25, "made": 1 << 21}
"""Pixels of a block: what is lost at most when work is stopped."""

SHARE = 0.1
"""Of the files for validation, and for test."""

Blocks = dict[str, tuple[int, int]]
"""Name of a part of the cache -> first picture in it and the one behind the last."""


def load_splits(
    config: PathfinderKnobs,
    resolution: int,
    task: str,
    vocabulary: list[str] | None,
    progress: Progress | None = None,
) -> dict[str, PixelSplit]:
    """Return all splits, reading or making what the cache lacks.

    Args:
        config: Knobs.
        resolution: Pixels of a side.
        task: Name of the task, for messages.
        vocabulary: Names of the grey values, if they are tokens.
        progress: Told of every picture.

    Raises:
        UserError: If files are asked for and nowhere, or damaged, or the cache cannot be written.
    """
    folder = find(config, resolution)
    if folder is not None:
        return _files(config, resolution, folder, task, vocabulary, progress)
    asked = _other(config, resolution)
    # Who names a root means the files below it: pictures made in their place might go unnoticed.
    if config.source == "local" or (config.source == "auto" and config.root is not None and not asked):
        raise sources.missing(
            task,
            sources.candidates(_names(resolution), config.root),
            files=f"Pathfinder ({_difficulty(config)}/metadata and imgs)",
            instead="--set task.source=generate",
        )
    if config.source == "auto":
        log.warning("%s: %s; pictures are made here after their algorithm", task, sources.made_because(asked))
    return _made(config, resolution, task, vocabulary, progress)


def find(config: PathfinderKnobs, resolution: int) -> Path | None:
    """Return the folder of the official files of a difficulty, or None if they are nowhere or not asked for."""
    if config.source == "generate" or (config.source == "auto" and _other(config, resolution)):
        return None
    difficulty = _difficulty(config)
    found = sources.find(_names(resolution), [f"{difficulty}/metadata"], config.root)
    return found / difficulty if found else None


def _other(config: PathfinderKnobs, resolution: int) -> tuple[str, ...]:
    """Return the knobs that ask for pictures which the release has not."""
    length = () if config.contour_length in RELEASED else (f"contour_length = {config.contour_length}",)
    size = () if resolution in SIZES else (f"resolution = {resolution}",)
    return (*config.changed, *length, *size)


def _names(resolution: int) -> list[str]:
    return [f"pathfinder{resolution}", f"pathfinder/pathfinder{resolution}"]


def _difficulty(config: PathfinderKnobs) -> str:
    return RELEASED.get(config.contour_length, f"curv_contour_length_{config.contour_length}")


def _files(
    config: PathfinderKnobs,
    resolution: int,
    folder: Path,
    task: str,
    vocabulary: list[str] | None,
    progress: Progress | None,
) -> dict[str, PixelSplit]:
    rows, lists = reader.listed(folder, config.expected_rows), reader.fingerprint(folder)
    whole = ROWS - reader.has_empty(folder)
    size = "" if len(rows) == whole else f" (NOT the release's {whole:,})"
    told = (
        f"files of the official release's layout, {sources.counted(len(rows), 'picture')}{size}: {folder}, "
        f"lists sha256 {lists}"
    )
    blocks = _blocks("files", len(rows), BLOCK_BYTES["read"] // resolution**2)

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        log.info("%s: %s", task, told)
        for name in missing:
            start, stop = blocks[name]
            inputs = np.empty((stop - start, resolution**2), np.uint8)
            for i, pixels in enumerate(reader.read(folder, rows[start:stop], resolution)):
                inputs[i] = pixels
                if progress:
                    progress(f"{task} data", start + i + 1, len(rows))
            labels = np.array([row.label for row in rows[start:stop]], np.uint8)
            yield name, {"inputs": inputs, "targets": labels}, told

    identity = {
        "reader": reader.READER,
        "folder": str(folder.resolve()),
        "lists": lists,
        # A second or two for the 200,000 of the release: the lists say which pictures there are, not what is in them.
        "pictures": files.stamp(path for path in _folders(folder, rows) if path.is_dir()),
        "resolution": resolution,
    }
    parts = cache.obtain(cache.root(config.cache), "lra-pathfinder", identity, blocks, make)
    held = int(SHARE * len(rows))
    edges = (0, len(rows) - 2 * held, len(rows) - held, len(rows))
    seed = config.split_seed if config.split == "random" else None
    return {
        name: PixelSplit(tuple(parts.values()), Selection(len(rows), start, stop, seed), vocabulary)
        for name, start, stop in zip(SPLITS, edges[:-1], edges[1:], strict=True)
    }


def _folders(folder: Path, rows: list[reader.Listed]) -> list[Path]:
    """Return the folders that pictures lie in."""
    return [folder / name for name in sorted({row.file.rpartition("/")[0] for row in rows})]


def _made(
    config: PathfinderKnobs,
    resolution: int,
    task: str,
    vocabulary: list[str] | None,
    progress: Progress | None,
) -> dict[str, PixelSplit]:
    plan = recipe(resolution, config.contour_length, config.seed, config.contrast)
    step = BLOCK_BYTES["made"] // resolution**2
    per_split = {split: _blocks(split, size, step) for split, size in config.sizes.items()}
    identity = {
        "generator": GENERATOR,
        "resolution": resolution,
        "contour_length": config.contour_length,
        "contrast": config.contrast,
        "seed": config.seed,
    }
    told = (
        f"regenerated after the published algorithm, not the official pictures: generator {GENERATOR}, "
        f"{resolution} x {resolution}, {config.contour_length} dashes, contrast {config.contrast}, seed {config.seed}"
    )

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        for split, blocks in per_split.items():
            for name in (each for each in blocks if each in missing):
                yield name, _block(plan, split, *blocks[name], config, task, progress), told

    names = [name for blocks in per_split.values() for name in blocks]
    parts = cache.obtain(cache.root(config.cache), "lra-pathfinder", identity, names, make)
    return {
        split: PixelSplit(
            tuple(parts[name] for name in blocks),
            Selection(config.sizes[split], 0, config.sizes[split]),
            vocabulary,
        )
        for split, blocks in per_split.items()
    }


def _block(
    plan: Recipe,
    split: str,
    start: int,
    stop: int,
    config: PathfinderKnobs,
    task: str,
    progress: Progress | None,
) -> dict[str, NDArray]:
    inputs = np.empty((stop - start, plan.measures.size**2), np.uint8)
    labels = np.empty(stop - start, np.uint8)
    compiled = worth_compiling(plan, sum(config.sizes.values()))
    made = pictures(plan, split, start, stop, config.workers, compiled)
    for i, picture in enumerate(made):
        inputs[i], labels[i] = picture.pixels.ravel(), picture.label
        if progress:
            progress(f"{task} data: {split}", start + i + 1, config.sizes[split])
    return {"inputs": inputs, "targets": labels}


def _blocks(prefix: str, total: int, step: int) -> Blocks:
    """Return blocks of `step` pictures and a shorter last one, whose name says how long it is."""
    edges = [*range(0, total, step), total]
    return {f"{prefix}-{start // step:05d}-{stop - start}": (start, stop) for start, stop in pairwise(edges)}
