"""The splits of the pendulum data, from the cache."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.pendulum.components import COMPONENTS, FITTER, basis_of, project, published_draw
from ssm_data.pendulum.generate import GENERATOR, generate
from ssm_data.pendulum.spec import PendulumConfig

SPLITS = ("train", "validation", "test")
NAMES = ("observations", "targets", "time_points")

PUBLISHED = {
    "train": "2b2c826dc26f00fd47518ba5a0566f42357ed0ef5f9821e1c45264cc4c72d7b2",
    "validation": "ebf8dee8a4ca16e3f0149ed634fdc91b47e29f60b9f664f56a5917faf0db8384",
    "test": "08d7af5628a7807e8988428b74a76ce1b9003b60a93582d7dbfa9a1a58a6e3f4",
}
"""sha256 of the observations under the default knobs."""


class PendulumSplit:
    """One split, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` uint8 (k, 24, 24), ``targets`` float64 (k, 2) = (sin, cos) of the angle, and
    ``time_points`` int64 (k,), the numbers of the k seen frames among the 100. With components instead of images,
    ``inputs`` is float32 (k, 48).

    Attributes:
        part: Where it lies in the cache, and what it was made from.
        arrays: ``observations`` (n, k, 24, 24) or (n, k, 48), ``targets`` (n, k, 2) and ``time_points`` (n, k).
    """

    def __init__(self, part: cache.Part) -> None:
        self.part = part
        self.arrays = {name: part.open(name) for name in NAMES}

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["time_points"])

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        names = {"inputs": "observations", "targets": "targets", "time_points": "time_points"}
        return {key: np.array(self.arrays[name][index]) for key, name in names.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return PendulumSplit, (self.part,)


def load_splits(config: PendulumConfig, progress: Progress | None = None) -> dict[str, PendulumSplit]:
    """Return all splits, making what the cache lacks.

    Raises:
        UserError: If the cache cannot be written.
    """
    if config.frames == "components":
        return _components(config, progress)

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        for name, arrays in generate(config, missing, progress):
            yield name, arrays, _provenance(name, config, arrays)

    parts = cache.obtain(cache.root(config.cache), "pendulum", identity(config), SPLITS, make)
    return {name: PendulumSplit(part) for name, part in parts.items()}


def _components(config: PendulumConfig, progress: Progress | None) -> dict[str, PendulumSplit]:
    fitted_on = load_splits(published_draw(config), progress)["train"].part
    images = load_splits(dataclasses.replace(config, frames="images"), progress)

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        basis = basis_of(fitted_on, config, progress)
        for name in missing:
            arrays = dict(images[name].arrays)
            arrays["observations"] = project(
                arrays["observations"].reshape(*arrays["time_points"].shape, -1), basis
            )
            yield name, arrays, f"{COMPONENTS} principal components; frames {images[name].provenance}"

    made_from = {
        "components": COMPONENTS,
        "fitter": FITTER,
        "fitted on": fitted_on.fingerprint,
        **identity(config),
    }
    parts = cache.obtain(cache.root(config.cache), "pendulum", made_from, SPLITS, make)
    return {name: PendulumSplit(part) for name, part in parts.items()}


def identity(config: PendulumConfig) -> dict[str, Any]:
    """Return all that the images depend on; how the model is told of time is not part of it."""
    return {
        "generator": GENERATOR,
        "n_frames": config.n_frames,
        "subsample_seed": config.subsample_seed,
        "sizes": {name: config.size(name) for name in SPLITS},
    }


def _provenance(name: str, config: PendulumConfig, arrays: Mapping[str, NDArray]) -> str:
    made = (
        f"regenerated: made by ssm_data.pendulum, generator {GENERATOR}, with numpy {np.__version__}, "
        f"Pillow {PIL.__version__}"
    )
    if identity(config) != identity(PendulumConfig()):
        return f"{made}; not the published settings"
    if cache.content_hash(arrays["observations"]) == PUBLISHED[name]:
        return f"{made}; bit-identical to the published data of CRU and S5"
    cache.log.warning(
        "pendulum %s: this machine (%s, numpy %s, Pillow %s) makes frames that differ from the published ones in some"
        " bits; results stay comparable, hashes do not",
        name,
        platform.machine(),
        np.__version__,
        PIL.__version__,
    )
    return f"{made}; DIFFERS from the published data"
