"""All clips end to end in one array, grouped by their official split and sorted by name, made in bounded memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data.cache import Arrays
from ssm_data.speech_commands.find import LISTS, Origin, wrong
from ssm_data.speech_commands.wav import samples

READER = 1
"""Raised when the arrays from the same clips change."""

OFFICIAL = 105_829
"""Clips of version 0.02."""

SHOWN = 1000
"""Clips between two reports of progress."""


def collect(origin: Origin, work: Path, progress: Progress | None = None) -> tuple[Arrays, list[str]]:
    """Read every clip.

    Args:
        origin: Where they are.
        work: An empty folder; the arrays are mapped from files in it, which have to stay while they are used.
        progress: Told of the clips read.

    Returns:
        ``values`` int16 (all samples,), ``offsets`` (n + 1,), ``targets`` (n,), the place of the word among the sorted
        ones, ``official`` (n,), 0 train, 1 validation, 2 test, and ``sums`` (n, 2), of the samples and of their
        squares; and the words.

    Raises:
        UserError: If a clip or a list makes no sense; it names the file.
    """
    names, lengths, sums, lists = _read(origin, work, progress)
    official = _official(origin.path, lists, names)
    order = np.lexsort((np.array(names), official))
    words = sorted({name.split("/")[0] for name in names})
    place = {word: number for number, word in enumerate(words)}
    offsets = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
    return {
        "values": _sorted(work, lengths, order, offsets),
        "offsets": offsets,
        # A byte holds the numbers of the official words; a collection of one's own may have more of them.
        "targets": np.array(
            [place[names[i].split("/")[0]] for i in order], np.min_scalar_type(len(words) - 1)
        ),
        "official": official[order],
        "sums": sums[order],
    }, words


def _read(
    origin: Origin, work: Path, progress: Progress | None
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64], dict[str, bytes]]:
    """Write all clips end to end as they come; return names, lengths (n,) and sums (n, 2) of clips, and the lists."""
    names, lengths, sums, lists = list[str](), list[int](), list[tuple[float, float]](), dict[str, bytes]()
    with (work / "as-read").open("wb") as out:
        for name, content in origin.listing():
            if name in LISTS:
                lists[name] = content
                continue
            try:
                clip = samples(content)
            except ValueError as error:
                raise wrong(origin.path / name, 0, str(error)) from None
            out.write(clip.tobytes())
            names.append(name)
            lengths.append(len(clip))
            wide = clip.astype(np.float64)
            sums.append((float(wide.sum()), float(wide @ wide)))
            if progress and len(names) % SHOWN == 0:
                progress("speech-commands: reading", len(names), max(OFFICIAL, len(names)))
    return names, np.array(lengths, np.int64), np.array(sums).reshape(-1, 2), lists


def _official(path: Path, lists: dict[str, bytes], names: list[str]) -> NDArray[np.uint8]:
    """Return the official split of each clip (n,), in the order of the names."""
    if not names:
        raise wrong(path, 0, "it has no clips: folders of the words with .wav files")
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise wrong(path, 0, f"the clip '{twice}' is in it twice")
    official = np.zeros(len(names), np.uint8)
    for split, listing in enumerate(LISTS, 1):
        if listing not in lists:
            raise wrong(path, 0, f"it has no {listing}")
        try:
            rows = lists[listing].decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise wrong(path / listing, 0, f"byte {error.start + 1} is not UTF-8 ({error.reason})") from None
        for row, line in enumerate(rows, 1):
            if not (name := line.strip()):
                continue
            if name not in numbers:
                raise wrong(path / listing, row, f"there is no clip '{name}'")
            if official[numbers[name]]:
                raise wrong(
                    path / listing, row, f"the clip '{name}' is listed before, here or in the other list"
                )
            official[numbers[name]] = split
    return official


def _sorted(
    work: Path, lengths: NDArray[np.int64], order: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.int16]:
    """Return the clips in another order, from one file to another."""
    starts = np.concatenate([[0], lengths.cumsum()])
    held = np.memmap(work / "as-read", np.int16, "r")
    out = np.memmap(work / "sorted", np.int16, "w+", shape=(int(offsets[-1]),))
    for place, clip in enumerate(order):
        out[offsets[place] : offsets[place + 1]] = held[starts[clip] : starts[clip + 1]]
    return out


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make an empty folder for the time of the reading. The caller holds the data set's lock, so it is alone here.

    Raises:
        UserError: If it cannot be written to.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}",
            "make room (7 GB while the official clips are read, 3.4 GB after) or name another folder: SSM_DATA_DIR=... "
            "or --set task.cache=...",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
