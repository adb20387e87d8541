"""Frames as their first principal components: a quick stand-in for the convolutions, for experiments of many runs.

The components are those of the training split under the published draw of frames, whatever draw is looked at: a model
trained on them can be tested at other sampling rates. Sums over whole grey values are exact in float64, in any order,
so the fit does not depend on the number of threads.

Shape suffixes: n frames, d pixels (576), k components (48).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.pendulum.spec import PendulumConfig

COMPONENTS = 48
"""Components that are kept: some 60 % of the variance of the noisy frames."""

FITTER = 1
"""Raised when the components of the same frames change."""

CHUNK = 4096
"""Frames worked at together."""


class Basis(NamedTuple):
    """A projection on principal components.

    Attributes:
        mean: Mean frame (d,), in grey values.
        directions: Orthonormal directions, the one of largest variance first (k, d); the entry of each that is
            largest in size is positive.
        scale: The number that all coefficients are divided by, (): their mean square over the fitted frames is then 1.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    scale: NDArray[np.float64]


def fit(frames_nd: NDArray[np.uint8]) -> Basis:
    """Fit the components of frames (n, d)."""
    total_d, products_dd = np.zeros(frames_nd.shape[1]), np.zeros((frames_nd.shape[1],) * 2)
    for start in range(0, len(frames_nd), CHUNK):
        part = frames_nd[start : start + CHUNK].astype(np.float64)
        total_d += part.sum(axis=0)
        products_dd += part.T @ part
    mean_d = total_d / len(frames_nd)
    covariance_dd = products_dd / len(frames_nd) - np.outer(mean_d, mean_d)
    # Of a symmetric matrix without negative eigenvalues: singular values and vectors are its eigenvalues and -vectors.
    _, variance_d, rows_dd = np.linalg.svd(covariance_dd, hermitian=True)
    rows_kd = rows_dd[:COMPONENTS]
    largest = np.take_along_axis(rows_kd, np.abs(rows_kd).argmax(axis=1)[:, None], axis=1)
    return Basis(mean_d, rows_kd * np.sign(largest), np.sqrt(variance_d[:COMPONENTS].mean()))


def project(frames_ld: NDArray[np.uint8], basis: Basis) -> NDArray[np.float32]:
    """Return the coefficients (..., k) of frames (..., d)."""
    flat = frames_ld.reshape(-1, frames_ld.shape[-1])
    out = np.empty((len(flat), len(basis.directions)), np.float32)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK] - basis.mean
        out[start : start + CHUNK] = part @ basis.directions.T / basis.scale
    return out.reshape(*frames_ld.shape[:-1], -1)


def published_draw(config: PendulumConfig) -> PendulumConfig:
    """Return the settings of the frames that the components are fitted on."""
    default = PendulumConfig()
    return dataclasses.replace(
        config, frames="images", sample_rate=default.sample_rate, subsample_seed=default.subsample_seed
    )


def basis_of(frames: cache.Part, config: PendulumConfig, progress: Progress | None = None) -> Basis:
    """Return the components of a training split from the cache, fitting them if need be.

    Args:
        frames: The training split under :func:`published_draw`.
        config: Names the cache.
        progress: Told of the fit.

    Raises:
        UserError: If the cache cannot be written.
    """

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        observations = frames.open("observations")
        basis = fit(observations.reshape(-1, observations.shape[-2] * observations.shape[-1]))
        if progress:
            progress("pendulum data: components", 1, 1)
        yield "basis", basis._asdict(), f"{COMPONENTS} principal components of the training frames"

    identity = {"components": COMPONENTS, "fitter": FITTER, "frames": frames.fingerprint}
    part = cache.obtain(cache.root(config.cache), "pendulum", identity, ["basis"], make)["basis"]
    return Basis(*(np.array(part.open(name)) for name in Basis._fields))
