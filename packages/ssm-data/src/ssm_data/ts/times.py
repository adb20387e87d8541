"""Time stamps in ``.ts`` files: pairs in brackets, a list of its own for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ssm_data.ts.numbers import of_words, quick

MARKS = b"(),"
REST = bytes(set(range(256)) - set(MARKS))

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pairs(text: str, whose: str) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return times and values (L,) of ``(time,value),(time,value)``.

    Raises:
        ValueError: If it is no such list, times do not increase, or a value is no number.
    """
    text = text.strip()
    marks = text.encode().translate(None, delete=REST) + b","
    count = len(marks) // 4
    between = text.count("),(")  # nothing else stands between two pairs, nor before and behind them
    if not (marks == b"(,)," * count and between == count - 1 and text[0] + text[-1] == "()"):
        raise ValueError(f"{whose} is not (time,value),(time,value)... but {text[:40]!r}")
    flat = text[1:-1].replace("),(", ",")
    found = quick(flat)
    if found is not None and not np.isnan(found[::2]).any():
        times, values = found[::2], found[1::2].astype(np.float32)
    else:
        words = flat.split(",")
        times, values = np.array([seconds(word) for word in words[::2]]), of_words(words[1::2], whose)
    late = np.flatnonzero(np.diff(times) <= 0)
    if len(late):
        before, after = flat.split(",")[2 * int(late[0]) :: 2][:2]
        raise ValueError(f"the times of {whose} do not increase: {after[:40]!r} follows {before[:40]!r}")
    return times, values


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
            raise ValueError(f"{word[:40]!r} is neither a number nor an ISO date") from None
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
