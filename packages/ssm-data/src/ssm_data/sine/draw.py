"""Signals and the points at which they are seen, a block of sequences at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ssm_data.cache import Arrays

GENERATOR = 1
"""Raised when the arrays for the same knobs change."""

A_MIN, A_MAX = 0.5, 1.0
"""Range of the amplitudes."""


def draw(rng: Generator, n: int, knobs: Mapping[str, Any]) -> Arrays:
    """Draw n sequences u(t) = sum_m a_m sin(2 pi f_m t + phi_m).

    Signals and noise are drawn before the points are moved, so every grid sees the same ones.

    Args:
        rng: Generator.
        n: Sequences.
        knobs: All of the task's knobs but time, sizes, seed and cache.

    Returns:
        ``inputs`` float32 (n, k, 1), u at the k points with noise; ``targets`` float32 (n, k, 1), u a horizon later
        without noise; ``time_points`` float64 (n, k), in seconds.
    """
    shape, step = (n, 1, knobs["components"]), knobs["step"]
    signal = (
        rng.uniform(A_MIN, A_MAX, shape),
        rng.uniform(knobs["f_min"], knobs["f_max"], shape),
        rng.uniform(0.0, 2 * np.pi, shape),
    )
    noise_nk = knobs["noise"] * rng.standard_normal((n, knobs["length"]))
    index_nk, place_nk = places(rng, n, knobs)
    time_nk = step * place_nk
    seen_nk = evaluate(signal, time_nk) + np.take_along_axis(noise_nk, index_nk, axis=1)
    ahead_nk = evaluate(signal, time_nk + step * knobs["horizon"])
    return {
        "inputs": seen_nk[..., None].astype(np.float32),
        "targets": ahead_nk[..., None].astype(np.float32),
        "time_points": time_nk,
    }


def places(rng: Generator, n: int, knobs: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw where n sequences are seen.

    Returns:
        Numbers (n, k) on the full grid of the points that are seen, and where these lie, (n, k), in steps.
    """
    length, grid = knobs["length"], knobs["grid"]
    index: NDArray[np.int64] = np.tile(np.arange(length), (n, 1))
    if grid == "jittered":
        return index, index + rng.uniform(-knobs["jitter"], knobs["jitter"], (n, length))
    if grid == "dropped":
        index = np.sort(rng.random((n, length)).argsort(axis=1)[:, : knobs["kept"]], axis=1)
    gap = knobs["stretch"] if grid == "stretched" else 1.0
    return index, gap * index.astype(np.float64)


def evaluate(signal: tuple[NDArray, NDArray, NDArray], time_nk: NDArray) -> NDArray[np.float64]:
    """Return signals, amplitude, frequency and phase (n, 1, m) each, at times (n, k): (n, k)."""
    amplitude, frequency, phase = signal
    return (amplitude * np.sin(2 * np.pi * frequency * time_nk[..., None] + phase)).sum(axis=-1)
