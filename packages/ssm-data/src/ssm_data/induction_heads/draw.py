"""Rows of induction heads, a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from ssm_data.cache import Arrays
from ssm_data.synthetic import smallest

GENERATOR = 1
"""Raised when the rows for the same knobs change."""


def draw(rng: Generator, n: int, knobs: Mapping[str, Any]) -> Arrays:
    """Draw n rows: ordinary tokens, among them once the special one with the answer behind it, and again at the end.

    Args:
        rng: Generator.
        n: Rows.
        knobs: ``length`` and ``vocabulary``.

    Returns:
        ``inputs`` (n, L); ``answers`` (n, 1); ``positions`` (n, 1), the last element.
    """
    length, size = knobs["length"], knobs["vocabulary"]
    kind = smallest(size)
    inputs = rng.integers(size - 1, size=(n, length), dtype=kind)
    # The answer has to stand before the last element, so the first special token two before it at the latest.
    first = rng.integers(length - 2, size=(n, 1))
    np.put_along_axis(inputs, first, kind(size - 1), axis=1)
    inputs[:, -1] = size - 1
    return {
        "inputs": inputs,
        "answers": np.take_along_axis(inputs, first + 1, axis=1),
        "positions": np.full((n, 1), length - 1, smallest(length)),
    }
