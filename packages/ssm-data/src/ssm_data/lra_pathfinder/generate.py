"""From a seed to a picture: curves laid, drawn, marked. Each picture has a stream of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_data.lra_pathfinder.geometry import MEASURES, Measures, Tables, marker, tables
from ssm_data.lra_pathfinder.snakes import RETRIES, distractor_draws, kernels, target_draws

GENERATOR = 1
"""Raised when the pictures for the same knobs change."""

SPLITS = ("train", "validation", "test")

ATTEMPTS = 32
"""Attempts at the targets for which numbers are drawn at a time."""

MOST_ATTEMPTS = 100_000
"""Attempts at one picture's targets before it is given up."""

WORTH = 2_000_000
"""Pixels of pictures from which on compiling pays."""


@dataclass(frozen=True)
class Recipe:
    """What a picture is made after.

    Attributes:
        measures: Of its size.
        contour_length: Dashes of each target.
        seed: The data's.
    """

    measures: Measures
    contour_length: int
    seed: int

    @property
    def distractor_length(self) -> int:
        """Dashes of a distractor."""
        return max(1, self.contour_length // 3)

    @property
    def distractors(self) -> int:
        """Number of distractors."""
        return self.measures.distractor_dashes // self.distractor_length


@dataclass(frozen=True)
class Picture:
    """A picture and what it was drawn from.

    Attributes:
        pixels: uint8 (size, size).
        label: 1 if both discs lie on one target, 0 if on two.
        margin: Space round its dashes.
        targets: (2, dashes, 3), each dash (y, x, direction).
        distractors: (number laid, dashes, 3).
        discs: (2, 2), their middles (y, x): where a target begins, and where one ends.
        attempts: Attempts at the targets.
    """

    pixels: NDArray[np.uint8]
    label: int
    margin: int
    targets: NDArray[np.int64]
    distractors: NDArray[np.int64]
    discs: NDArray[np.int64]
    attempts: int


def recipe(resolution: int, contour_length: int, seed: int, contrast: str) -> Recipe:
    """Return what pictures are made after.

    Args:
        resolution: Pixels of a side.
        contour_length: Dashes of each target.
        seed: The data's.
        contrast: ``published``, or ``equal`` for distractors as bright as targets.
    """
    measures = MEASURES[resolution]
    if contrast == "equal":
        measures = replace(measures, distractor_contrast=measures.target_contrast)
    return Recipe(measures, contour_length, seed)


def worth_compiling(plan: Recipe, number: int) -> bool:
    """Whether numba is installed and so many pictures are worth the wait for it."""
    return find_spec("numba") is not None and number * plan.measures.size**2 >= WORTH


def pictures(
    plan: Recipe, split: str, start: int, stop: int, workers: int = 1, compiled: bool = False
) -> Iterator[Picture]:
    """Yield pictures of a split.

    Args:
        plan: What they are made after.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        start: Number of the first.
        stop: Number behind the last.
        workers: Threads; 0 takes all cores. The pictures are the same.
        compiled: Whether to use numba. The pictures are the same.

    Raises:
        UserError: If curves of that length find no room.
    """
    numbers = range(start, stop)
    if workers == 1 or not compiled:
        yield from (picture(plan, split, number, compiled) for number in numbers)
        return
    picture(plan, split, start, compiled)  # compiles before the threads begin
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from pool.map(lambda number: picture(plan, split, number, compiled), numbers)


def picture(plan: Recipe, split: str, number: int, compiled: bool = False) -> Picture:
    """Make one picture of a split, by its number.

    Raises:
        UserError: If curves of that length find no room.
    """
    stream = np.random.SeedSequence(plan.seed, spawn_key=(SPLITS.index(split), number))
    rng = np.random.Generator(np.random.PCG64(stream))
    m, dashes = plan.measures, plan.contour_length
    lay_targets, lay_distractors = kernels(compiled)
    label, origin = (int(value) for value in rng.integers(0, 2, 2))
    margin = m.margins[int(rng.integers(len(m.margins)))]
    t = tables(m, margin)
    mask, targets = np.zeros((m.size, m.size)), np.zeros((2, dashes, 3), np.int64)
    attempts = 0
    while (found := lay_targets(rng.random((ATTEMPTS, target_draws(dashes))), t, dashes, mask, targets)) < 0:
        attempts += ATTEMPTS
        if attempts >= MOST_ATTEMPTS:
            raise UserError(
                f"no room for two curves of {dashes} dashes in {m.size} x {m.size} pixels, {attempts} times",
                "take a smaller contour_length or a larger resolution",
            )
    length, number_of = plan.distractor_length, plan.distractors
    distractors = np.zeros((number_of, length, 3), np.int64)
    u = rng.random((number_of * RETRIES, distractor_draws(length)))
    laid = lay_distractors(u, t, length, number_of, mask, distractors)
    end = origin if label else 1 - origin
    discs = np.stack([targets[origin, 0, :2], targets[end, -1, :2]])
    pixels = draw(m, t, targets, distractors[:laid], discs)
    return Picture(pixels, label, margin, targets, distractors[:laid], discs, attempts + found + 1)


def draw(
    m: Measures,
    t: Tables,
    targets: NDArray[np.int64],
    distractors: NDArray[np.int64],
    discs: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Draw curves and discs, the brightest winning, scaled so that the brightest pixel is 255."""
    canvas = np.zeros((m.size, m.size))
    for dashes, contrast in ((targets, m.target_contrast), (distractors, m.distractor_contrast)):
        for y, x, direction in dashes.reshape(-1, 3):
            _lay(canvas, t.lines[direction] * contrast, int(y), int(x))
    disc = marker(m.marker_radius)
    for y, x in discs:
        _lay(canvas, disc, int(y), int(x))
    return (canvas * (255 / canvas.max()) + 0.5).clip(0, 255).astype(np.uint8)


def _lay(canvas: NDArray[np.float64], stamp: NDArray[np.float64], y: int, x: int) -> None:
    half, size = len(stamp) // 2, len(canvas)
    y0, y1, x0, x1 = max(0, y - half), min(size, y + half + 1), max(0, x - half), min(size, x + half + 1)
    sy, sx = y0 - y + half, x0 - x + half
    view = canvas[y0:y1, x0:x1]
    np.maximum(view, stamp[sy : sy + y1 - y0, sx : sx + x1 - x0], out=view)
