"""Image noise that comes and goes: each frame is mixed with uniform noise by a factor that walks at random in time."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from ssm_data.pendulum.render import SIZE
from ssm_data.pendulum.simulate import FRAMES

WALK = 0.2
"""Largest change of the walk between two frames."""
CLEAN_START = 5
"""Frames at the start of each sequence that carry no noise."""


def clarity(n: int, rng: RandomState) -> NDArray[np.float64]:
    """Draw how clear each frame is.

    Args:
        n: Number of sequences.
        rng: Legacy generator, straight after :func:`ssm_data.pendulum.simulate.simulate` of the same split.

    Returns:
        Factors (n, 100) in [0, 1]: 1 is a clean frame, 0 pure noise.
    """
    walk_tn = np.empty((FRAMES, n))
    walk_tn[0] = rng.uniform(0.0, 1.0, n)
    for frame in range(FRAMES - 1):
        step_n = rng.uniform(-WALK, WALK, n)
        walk_tn[frame + 1] = np.clip(walk_tn[frame] + step_n, 0.0, 1.0)
    low_n1 = rng.uniform(0.0, 0.25, (n, 1))
    high_n1 = rng.uniform(0.75, 1.0, (n, 1))
    factor_nt = np.clip((walk_tn.T - low_n1) / (high_n1 - low_n1), 0.0, 1.0)
    factor_nt[:, :CLEAN_START] = 1.0
    return factor_nt


def draw(rng: RandomState) -> NDArray[np.float64]:
    """Draw the noise of one sequence (100, 24, 24) in [0, 255); always all of it, whichever frames are kept."""
    return rng.uniform(0.0, 255.0, (FRAMES, SIZE, SIZE))


def mix(
    clean_khw: NDArray[np.uint8], factor_k: NDArray[np.float64], noise_khw: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Mix k clean frames with noise by their factors, truncating to whole grey values: (k, 24, 24)."""
    factor = factor_k[:, None, None]
    return (factor * clean_khw + (1 - factor) * noise_khw).astype(np.uint8)
