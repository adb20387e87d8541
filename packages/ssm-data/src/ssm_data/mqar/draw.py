"""Rows of multi-query associative recall (Arora et al. 2023, appendix E.2), a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ssm_data.cache import Arrays
from ssm_data.synthetic import distinct, smallest

GENERATOR = 1
"""Raised when the rows for the same knobs change."""


def draw(rng: Generator, n: int, knobs: Mapping[str, Any]) -> Arrays:
    """Draw n rows: k v k v .. of K pairs, then each key once, at an even place, everything else 0.

    Args:
        rng: Generator.
        n: Rows.
        knobs: ``length``, ``pairs``, ``vocabulary`` and ``power``.

    Returns:
        ``inputs`` (n, L); ``answers`` (n, K), the value of each key; ``positions`` (n, K), where the key is asked for.
    """
    length, pairs, size = knobs["length"], knobs["pairs"], knobs["vocabulary"]
    half = size // 2
    keys = 1 + distinct(rng, n, pairs, half - 1)
    values = half + distinct(rng, n, pairs, size - half)
    slots = raced(rng, n, pairs, (length - 2 * pairs) // 2, knobs["power"])
    positions = 2 * pairs + 2 * slots
    inputs = np.zeros((n, length), smallest(size))
    inputs[:, 0 : 2 * pairs : 2] = keys
    inputs[:, 1 : 2 * pairs : 2] = values
    np.put_along_axis(inputs, positions, keys.astype(inputs.dtype), axis=1)
    return {
        "inputs": inputs,
        "answers": values.astype(inputs.dtype),
        "positions": positions.astype(smallest(length)),
    }


def raced(rng: Generator, n: int, pairs: int, slots: int, power: float) -> NDArray[np.int64]:
    """Draw slots for the pairs, (n, pairs), one after the other without replacement, slot i with weight i^(power - 1).

    The first to arrive of independent exponential clocks with those rates: the same law as drawing one by one.
    """
    weight = np.arange(1, slots + 1, dtype=np.float64) ** (power - 1)
    arrival = rng.standard_exponential((n, slots)) / weight
    first = arrival.argpartition(pairs - 1, axis=1)[:, :pairs]
    order = np.take_along_axis(arrival, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, order, axis=1)
