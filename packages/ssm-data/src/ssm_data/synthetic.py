"""Splits that are drawn, not collected: their seeds, the blocks they are drawn in, and their place in the cache.

A split is drawn in blocks of 128 rows, each from a generator of its own, seeded by (seed, number of the split, number
of the block). So the splits never share random numbers, a small split is the beginning of a large one, and one split
can be made anew without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache

BLOCK = 128
"""Rows drawn from one generator. Part of the definition of every data set here."""

STREAMS = {"train": 0, "validation": 1, "test": 2}
"""Number of each split in its seeds."""

Draw: TypeAlias = Callable[[Generator, int, Mapping[str, Any]], cache.Arrays]
"""Draws rows: ``draw(rng, n, knobs)`` returns arrays (n, ...)."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A data set that is drawn.

    Attributes:
        task: Name of the task.
        version: Raised when the arrays for the same knobs change; old caches are then left alone and new ones made.
        seed: Seed of all splits.
        sizes: Rows of each split.
        knobs: What ``draw`` goes by, as plain values.
        own: Knobs of single splits, laid over ``knobs``.
        draw: Draws the rows of a block.
    """

    task: str
    version: int
    seed: int
    sizes: Mapping[str, int]
    knobs: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    draw: Draw

    def knobs_of(self, split: str) -> dict[str, Any]:
        """Return what ``draw`` goes by in a split."""
        return {**self.knobs, **self.own.get(split, {})}

    def identity(self, split: str) -> dict[str, Any]:
        """Return all that a split depends on; another split's size or knobs are no part of it."""
        return {
            "generator": self.version,
            "seed": self.seed,
            "split": split,
            "rows": self.sizes[split],
            "knobs": self.knobs_of(split),
        }

    def make(self, split: str, progress: Progress | None = None) -> dict[str, NDArray]:
        """Draw a split: arrays (rows, ...)."""
        rows, made = self.sizes[split], {}
        for start, rng in generators(self.seed, split, rows):
            # Always a whole block: a split's last rows are then those of the larger split.
            drawn = self.draw(rng, BLOCK, self.knobs_of(split))
            stop = min(start + BLOCK, rows)
            for name, array in drawn.items():
                whole = made.setdefault(name, np.empty((rows, *array.shape[1:]), array.dtype))
                whole[start:stop] = array[: stop - start]
            if progress:
                progress(f"{self.task} data: {split}", stop, rows)
        return made

    def parts(self, chosen: Path | None, progress: Progress | None = None) -> dict[str, cache.Part]:
        """Return every split from the cache, drawing those that it lacks.

        Args:
            chosen: The cache folder that the user names, or None.
            progress: Told of every block.

        Raises:
            UserError: If the cache cannot be written.
        """
        found = {}
        for split in self.sizes:

            def make(missing: list[str], split: str = split) -> Iterator[tuple[str, cache.Arrays, str]]:
                yield split, self.make(split, progress), self.provenance()

            found |= cache.obtain(cache.root(chosen), self.task, self.identity(split), [split], make)
        return found

    def provenance(self) -> str:
        """Return where the data comes from, in words."""
        package = self.task.replace("-", "_")
        return (
            f"regenerated: drawn by ssm_data.{package}, generator {self.version}, seed {self.seed}, "
            f"with numpy {np.__version__}"
        )


def generators(seed: int, split: str, rows: int) -> Iterator[tuple[int, Generator]]:
    """Yield the first row and the generator of each block of a split."""
    for block in range(-(-rows // BLOCK)):
        key = SeedSequence(seed, spawn_key=(STREAMS[split], block))
        yield block * BLOCK, Generator(PCG64(key))


def distinct(rng: Generator, rows: int, n: int, among: int) -> NDArray[np.int64]:
    """Draw n different numbers of 0..among-1 for each row, every ordered choice as likely as any other.

    Repeated numbers are drawn again where they stand. That treats all numbers alike, so every choice stays as likely.

    Args:
        rng: Generator.
        rows: Number of rows.
        n: Numbers a row, at most ``among``.
        among: How many there are to choose from.

    Returns:
        Numbers (rows, n), in the order of the draw.
    """
    if 2 * n > among:  # most draws would be repeats
        return rng.permuted(np.tile(np.arange(among), (rows, 1)), axis=1)[:, :n]
    drawn = rng.integers(among, size=(rows, n))
    while (again := _repeats(drawn)).any():
        drawn[again] = rng.integers(among, size=int(again.sum()))
    return drawn


def _repeats(drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where a number of (rows, n) stands in its row already."""
    order = drawn.argsort(axis=1, kind="stable")
    ranked = np.take_along_axis(drawn, order, axis=1)
    same = np.zeros(drawn.shape, dtype=bool)
    np.put_along_axis(same, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    return same


def smallest(size: int) -> type[np.uint8] | type[np.uint16] | type[np.int32]:
    """Return the smallest type that holds 0..size-1 and that torch knows well."""
    return np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32
