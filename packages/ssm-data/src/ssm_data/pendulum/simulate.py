"""Physics of the pendulum: a damped rod with random kicks, integrated in float64.

The data set is defined by its draws: what is drawn from the generator, and in which order, is part of the definition.
Source: the regression data of CRU (Schirmer et al. 2022), as used by S5 (Smith et al. 2023).
"""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

FRAMES = 100
"""Frames in a full sequence, before subsampling."""

MASS = 1.0
LENGTH = 1.0
GRAVITY = 9.81
INERTIA = MASS * LENGTH**2 / 3
PULL = GRAVITY * LENGTH * MASS / INERTIA
FRICTION = 0.1
SUBSTEP = 1e-4
"""Inner time step in seconds."""
SUBSTEPS = 100
"""Inner steps between two frames, which are therefore 0.01 s apart."""
KICK_STD = 0.1
"""Standard deviation of the random change of angular velocity at each frame."""
VIEW_STD = 1e-5
"""Standard deviation of the noise on the angle that is drawn, but not on the target."""


def simulate(n: int, rng: RandomState) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Simulate n pendulums from rest at random angles.

    Args:
        n: Number of sequences.
        rng: Legacy generator; advanced by exactly the draws of a split of n sequences.

    Returns:
        Angles in radians, 0 hanging down: the true ones (n, 100) and the ones to draw (n, 100).
    """
    state_nt2 = np.empty((n, FRAMES, 2))
    theta_n = rng.uniform(0.0, 2 * np.pi, (n, 1))[:, 0]
    omega_n = np.zeros(n)
    state_nt2[:, 0] = np.stack([theta_n, omega_n], axis=-1)
    for frame in range(1, FRAMES):
        for _ in range(SUBSTEPS):
            omega_n = omega_n + SUBSTEP * (PULL * np.sin(theta_n) - FRICTION * omega_n)
            theta_n = theta_n + SUBSTEP * omega_n
        omega_n = omega_n + rng.normal(0.0, KICK_STD, n)
        theta_n = theta_n % (2 * np.pi)
        state_nt2[:, frame] = np.stack([theta_n, omega_n], axis=-1)
    theta_nt = state_nt2[..., 0] - np.pi
    # The angular velocity gets noise too. It is never looked at, but its draws move the generator on.
    return theta_nt, theta_nt + rng.normal(0.0, VIEW_STD, (n, FRAMES, 2))[..., 0]


def targets(theta_nt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is to be regressed, (sin, cos) of the true angle: (n, t) -> (n, t, 2)."""
    return np.stack([np.sin(theta_nt), np.cos(theta_nt)], axis=-1)
