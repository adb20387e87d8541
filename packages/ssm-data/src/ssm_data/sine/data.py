"""The splits of the sine data, from the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_data import cache
from ssm_data.sine.draw import GENERATOR, draw
from ssm_data.sine.spec import SineConfig
from ssm_data.synthetic import Drawn

SIGNAL = ("length", "step", "horizon", "components", "f_min", "f_max", "noise", "grid")
"""Knobs that the arrays depend on, whatever the grid."""

OF_GRID = {"jittered": ("jitter",), "dropped": ("kept",), "stretched": ("stretch",)}
"""And those of one grid only."""


class SineSplit:
    """One split, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` float32 (k, 1), ``targets`` float32 (k, 1), ``time_points`` float64 (k,) in seconds.

    Attributes:
        part: Where it lies in the cache, and what it was made from.
        arrays: The same of all n sequences: (n, k, 1), (n, k, 1) and (n, k).
    """

    def __init__(self, part: cache.Part) -> None:
        self.part = part
        self.arrays = {name: part.open(name) for name in ("inputs", "targets", "time_points")}

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["inputs"])

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        return {name: np.array(array[index]) for name, array in self.arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return SineSplit, (self.part,)


def drawn(config: SineConfig) -> Drawn:
    """Return how the splits are drawn; how the model is told of time is not part of it."""
    names = (*SIGNAL, *OF_GRID.get(config.grid, ()))
    return Drawn(
        task="sine",
        version=GENERATOR,
        seed=config.seed,
        sizes={"train": config.n_train, "validation": config.n_validation, "test": config.n_test},
        knobs={name: getattr(config, name) for name in names},
        draw=draw,
    )
