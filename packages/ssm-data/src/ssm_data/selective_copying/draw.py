"""Rows of selective copying, a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from ssm_data.cache import Arrays
from ssm_data.synthetic import distinct, smallest

GENERATOR = 1
"""Raised when the rows for the same knobs change."""


def draw(rng: Generator, n: int, knobs: Mapping[str, Any]) -> Arrays:
    """Draw n rows: M tokens in order at random places of noise 0, then M markers, where the tokens are due.

    Args:
        rng: Generator.
        n: Rows.
        knobs: ``length``, ``tokens`` and ``vocabulary``.

    Returns:
        ``inputs`` (n, length + M); ``answers`` (n, M), the tokens; ``positions`` (n, M), the last M elements.
    """
    length, m, size = knobs["length"], knobs["tokens"], knobs["vocabulary"]
    tokens = rng.integers(1, size - 1, size=(n, m), dtype=np.int64).astype(smallest(size))
    places = np.sort(distinct(rng, n, m, length), axis=1)
    inputs = np.zeros((n, length + m), tokens.dtype)
    np.put_along_axis(inputs, places, tokens, axis=1)
    inputs[:, length:] = size - 1
    positions = np.arange(length, length + m, dtype=smallest(length + m))
    return {"inputs": inputs, "answers": tokens, "positions": np.tile(positions, (n, 1))}
