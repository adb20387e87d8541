"""Numbers separated by commas, ``?`` for a missing one: many millions in a line are read at once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)

BLOCK = 1 << 12
"""Words of a line with an odd one somewhere that are read at once."""

BESIDE = re.compile(r"[^,\s]\?|\?[^,\s]")
"""What makes a question mark no missing value: something else in the same word."""


def quick(text: str) -> NDArray[np.float64] | None:
    """Return numbers (L,), NaN for ``?``, or None if some word needs a closer look."""
    missing = text.count("?")
    if missing and BESIDE.search(text):
        return None
    with warnings.catch_warnings(action="error", category=DeprecationWarning):
        try:  # several times as fast as word by word
            found = np.fromstring(text.replace("?", "nan"), sep=",")
        except (ValueError, DeprecationWarning):
            return None
    whole = len(found) == text.count(",") + 1 and np.isnan(found).sum() == missing
    return found if whole and not (np.abs(found) > LARGEST).any() else None


def numbers(text: str, whose: str) -> NDArray[np.float32]:
    """Return numbers separated by commas, NaN for ``?``: float32 (L,).

    Raises:
        ValueError: If there is none, or one is no finite number; it says which.
    """
    found = quick(text)
    return of_words(text.split(","), whose) if found is None else found.astype(np.float32)


def of_words(words: Sequence[str], whose: str) -> NDArray[np.float32]:
    """Return words as numbers (L,), as :func:`numbers` does.

    Raises:
        ValueError: If one is no finite number; it says which.
    """
    parts = []
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        found = quick(",".join(block))
        if found is None:
            found = np.array([_number(word.strip(), start + i, whose) for i, word in enumerate(block, 1)])
        parts.append(found.astype(np.float32))
    return np.concatenate(parts)


def _number(word: str, place: int, whose: str) -> float:
    if word == "?" or word.lower() == "nan":
        return np.nan
    try:
        return finite(word)
    except ValueError:
        raise ValueError(
            f"value {place} of {whose} is {word[:40]!r}, not a finite number (of float32) or ?"
        ) from None


def finite(word: str) -> float:
    """Return a word as a number that float32 can hold.

    Raises:
        ValueError: If it is none; Python's underscores between digits are no part of one.
    """
    value = float(word)
    if not abs(value) <= LARGEST or "_" in word:
        raise ValueError
    return value
