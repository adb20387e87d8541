"""From seeds to arrays: the splits of the pendulum data, bit for bit those that CRU and S5 were trained on.

Making all three takes seconds: the noise is the cost, the few hundred different clean frames are drawn once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data.pendulum import noise
from ssm_data.pendulum.render import SIZE, render
from ssm_data.pendulum.simulate import FRAMES, simulate, targets
from ssm_data.pendulum.spec import PendulumConfig

Arrays: TypeAlias = dict[str, NDArray]

GENERATOR = 1
"""Raised when the arrays for the same knobs change; old caches are then left alone and new ones made."""

STREAMS = ((42, ("train", "test")), (43, ("validation",)))
"""Seed of each generator and the splits drawn from it, in this order."""

FRAME_SEEDS = {"train": 2000, "validation": 1000, "test": 0}
"""Added to the number of a sequence: the seed that chooses its frames."""

RESEED = 1_000_000
"""Distance between the frame seeds of consecutive ``subsample_seed`` values."""


def generate(
    config: PendulumConfig, wanted: Collection[str], progress: Progress | None = None
) -> Iterator[tuple[str, Arrays]]:
    """Make the wanted splits.

    A split needs the draws of those before it in its stream, not their frames.

    Args:
        config: Sizes, sample rate and subsample seed.
        wanted: Names of splits.
        progress: Told of every sequence.

    Yields:
        Name of a split and its arrays: ``observations`` uint8 (n, k, 24, 24), ``targets`` float64 (n, k, 2) and
        ``time_points`` int64 (n, k), the k chosen frames of each sequence.
    """
    for seed, names in STREAMS:
        rng = RandomState(seed)
        last = max((i for i, name in enumerate(names) if name in wanted), default=-1)
        for name in names[: last + 1]:
            arrays = _split(name, config, rng, progress, keep=name in wanted)
            if name in wanted:
                yield name, arrays


def _split(
    name: str, config: PendulumConfig, rng: RandomState, progress: Progress | None, keep: bool
) -> Arrays:
    n = config.size(name)
    theta_nt, seen_nt = simulate(n, rng)
    factor_nt = noise.clarity(n, rng)
    times_nk = np.stack([choose_frames(name, i, config) for i in range(n)])
    frames_nkhw = np.empty((n if keep else 0, config.n_frames, SIZE, SIZE), np.uint8)
    for i, times_k in enumerate(times_nk):
        noise_thw = noise.draw(rng)
        if keep:
            frames_nkhw[i] = noise.mix(render(seen_nt[i, times_k]), factor_nt[i, times_k], noise_thw[times_k])
        if progress:
            progress(f"pendulum data: {name}", i + 1, n)
    kept = np.take_along_axis(targets(theta_nt), times_nk[..., None], axis=1)
    return {"observations": frames_nkhw, "targets": kept, "time_points": times_nk}


def choose_frames(name: str, index: int, config: PendulumConfig) -> NDArray[np.int64]:
    """Return the sorted numbers (k,) of the frames that are seen of one sequence."""
    seed = FRAME_SEEDS[name] + index + RESEED * config.subsample_seed
    chosen = np.random.default_rng(seed).choice(FRAMES, config.n_frames, replace=False)
    return np.sort(chosen).astype(np.int64)
