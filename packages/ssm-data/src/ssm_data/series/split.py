"""Splits of series of numbers, and how one is drawn from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ssm_data.cache import Arrays, Part
from ssm_data.ragged import RaggedSplit
from ssm_data.series.facts import Facts


class SeriesSplit(RaggedSplit):
    """A split of series, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` float32 (L, C), NaN where a value is missing; ``targets``, for each series int64 () or
    float32 (T,), or for each element int64 (L,) or float32 (L, T), -100 or NaN where nothing is asked for; ``length``
    int64 (); and where there are times, ``time_points`` float64 (L,).

    Args:
        part: Where it lies in the cache.
    """

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.facts = Facts.read(self.arrays.pop("facts"))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        if "times" in self.arrays:
            start, stop = self.arrays["offsets"][index % len(self) :][:2]
            row["time_points"] = np.array(self.arrays["times"][start:stop])
        return row

    def __reduce__(self) -> tuple[Any, ...]:
        return SeriesSplit, (self.part,)


def chosen(series: Mapping[str, NDArray], rows: NDArray[np.int64]) -> Arrays:
    """Return some series of a set that lies end to end.

    Args:
        series: ``offsets`` (n + 1,), ``values`` and what else there is of ``times`` and ``target_values``, by element;
            ``targets`` (n, ...), by series.
        rows: Which of them, in the order that is wanted.
    """
    offsets = series["offsets"]
    lengths = np.diff(offsets)[rows]
    starts = np.concatenate([[0], lengths.cumsum()])
    # The place of every element: its place inside its series, and where that begins.
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + np.repeat(offsets[:-1][rows], lengths)
    picked: dict[str, NDArray] = {"offsets": starts.astype(np.int64)}
    for name in ("values", "times", "target_values"):
        if name in series:
            picked[name] = series[name][place]
    if "targets" in series:
        picked["targets"] = series["targets"][rows]
    return picked


def held_out(labels: NDArray, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw which rows are held out: of every label the same share, as nearly as whole rows allow.

    Every label keeps at least one row. What rounding leaves over goes to the labels with the largest remainders.

    Args:
        labels: A number for each row (n,); all the same draws without regard to labels.
        share: Share of the rows, in (0, 1).
        seed: Seed of the draw.

    Returns:
        (n,), at least one of them True if some label has two rows.
    """
    rng = Generator(PCG64(SeedSequence(seed)))
    order = rng.permutation(len(labels))
    names, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = share * counts
    takes = np.minimum(np.floor(wanted), counts - 1).astype(np.int64)
    left = max(round(share * len(labels)), 1) - int(takes.sum())
    for label in np.argsort(-(wanted - takes), kind="stable")[: max(left, 0)]:
        takes[label] += takes[label] < counts[label] - 1
    out = np.zeros(len(labels), bool)
    for label in range(len(names)):
        out[order[which[order] == label][: takes[label]]] = True
    return out
