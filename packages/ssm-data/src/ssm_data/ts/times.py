"""Time stamps in ``.ts`` files: pairs in brackets, a list of its own for each channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

PAIR = re.compile(r"\(([^(),]*),([^(),]*)\)")
LIST = re.compile(rf"{PAIR.pattern}(,{PAIR.pattern})*")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pairs(text: str, whose: str) -> tuple[NDArray[np.float64], list[str]]:
    """Return times (L,) and the words of the values of ``(time,value),(time,value)``.

    Raises:
        ValueError: If it is no such list, or times do not increase.
    """
    text = text.strip()
    if not LIST.fullmatch(text):
        raise ValueError(f"{whose} is not (time,value),(time,value)... but {text[:40]!r}")
    found = PAIR.findall(text)
    times = np.array([seconds(word) for word, _ in found])
    late = np.flatnonzero(np.diff(times) <= 0)
    if len(late):
        place = int(late[0]) + 1
        raise ValueError(
            f"the times of {whose} do not increase: {found[place][0]!r} follows {found[place - 1][0]!r}"
        )
    return times, [word for _, word in found]


def seconds(word: str) -> float:
    """Return a time: a number as it is, a date (ISO 8601) as seconds since 1970, in UTC if it names no zone.

    Raises:
        ValueError: If it is neither, or not finite.
    """
    word = word.strip()
    try:
        value = float(word)
    except ValueError:
        try:
            date = datetime.fromisoformat(word)
        except ValueError:
            raise ValueError(f"{word!r} is neither a number nor an ISO date") from None
        return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - EPOCH).total_seconds()
    if not np.isfinite(value):
        raise ValueError(f"the time {word!r} is not finite")
    return value


def together(
    columns: Sequence[tuple[NDArray[np.float64], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Lay channels with times of their own on all times that any of them has.

    Args:
        columns: Times and values of each channel.

    Returns:
        Values (L, C), NaN where a channel has none at that time, and times (L,).
    """
    times = np.unique(np.concatenate([times for times, _ in columns]))
    values = np.full((len(times), len(columns)), np.nan, np.float32)
    for channel, (own, column) in enumerate(columns):
        values[np.searchsorted(times, own), channel] = column
    return values, times
