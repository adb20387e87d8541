"""The splits of the spoken words, from the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, files
from ssm_data.series.split import held_out
from ssm_data.sources import counted
from ssm_data.speech_commands.blob import OFFICIAL, READER, collect, scratch
from ssm_data.speech_commands.find import Origin, find
from ssm_data.speech_commands.spec import RATE, TEN, SpeechCommandsConfig

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

HELD_OUT = 0.3
"""Share of the ten words' clips that are not for training: half of them for validation, half for testing."""


class ClipSplit:
    """Some of the clips, read from the cache as they are needed. Pickles as the place of all, and which.

    Rows are dicts: ``inputs`` int16 (L,), samples, ``targets`` int64 (), the word, and ``length`` int64 ().

    Args:
        part: Where all clips lie in the cache.
        rows: Numbers of the split's own among them (n,).
        numbers: The class of each word of the cache; -1 for one that is left out.
        vocabulary: Name of each class.
        stride: Every how manieth sample is taken.
        note: Added to the provenance.
    """

    def __init__(
        self,
        part: cache.Part,
        rows: NDArray[np.int64],
        numbers: NDArray[np.int64],
        vocabulary: list[str],
        stride: int,
        note: str = "",
    ) -> None:
        self.part, self.rows, self.numbers, self.vocabulary = part, rows, numbers, vocabulary
        self.stride, self.note = stride, note
        self._values = part.open("values")
        self._offsets = np.array(part.open("offsets"))
        self._targets = numbers[part.open("targets")]

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance + self.note

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    @cached_property
    def arrays(self) -> dict[str, NDArray]:
        """All clips end to end at the split's rate, ``values`` and ``offsets`` (n + 1,), and ``targets`` (n,)."""
        clips = [self[i]["inputs"] for i in range(len(self))]
        offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64)
        return {"values": np.concatenate(clips), "offsets": offsets, "targets": self._targets[self.rows]}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.rows[index]
        clip = np.array(self._values[self._offsets[row] : self._offsets[row + 1] : self.stride])
        return {"inputs": clip, "targets": np.int64(self._targets[row]), "length": np.int64(len(clip))}

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of every row (n,)."""
        return -(-np.diff(self._offsets)[self.rows] // self.stride)

    def scale(self) -> tuple[float, float]:
        """Return mean and standard deviation of all samples, at the full rate; 0 and 1 of silence."""
        total, squares = self.part.open("sums")[self.rows].sum(axis=0).tolist()
        count = int(np.diff(self._offsets)[self.rows].sum())
        mean = total / count
        return mean, max(squares / count - mean**2, 0.0) ** 0.5 or 1.0

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipSplit, (self.part, self.rows, self.numbers, self.vocabulary, self.stride, self.note)


def load_splits(config: SpeechCommandsConfig, progress: Progress | None = None) -> dict[str, ClipSplit]:
    """Return all splits, reading what the cache lacks. Both tasks and both rates share one copy of the clips.

    Raises:
        UserError: If the clips are nowhere or damaged, or the cache cannot be written.
    """
    origin = find(config.root)
    part = _clips(config, origin, progress)
    words = json.loads(part.open("words").tobytes())
    known = sorted(TEN) if config.classes == len(TEN) else words
    numbers = np.array([known.index(word) if word in known else -1 for word in words], np.int64)
    targets, lengths = numbers[part.open("targets")], np.diff(part.open("offsets"))
    if config.classes == len(TEN):
        which = _by_seed(targets, np.flatnonzero((targets >= 0) & (lengths == RATE)), config.seed)
        how = f"clips of a full second, split 70/15/15 by seed {config.seed}"
    else:
        official = part.open("official")
        which = {name: np.flatnonzero(official == place) for place, name in enumerate(SPLITS)}
        how = "split by the official lists"
    for name, rows in which.items():
        if not len(rows) or len(known) != config.classes:
            raise UserError(
                f"{origin.path} has {len(known)} words, and {len(rows)} clips for {name}; {config.classes} words are "
                "asked for",
                "fetch the files again, or --set task.classes=10 where only the commands are there",
            )
    note = f"; {config.classes} words, {how}, at {config.rate} Hz"
    return {
        name: ClipSplit(part, rows, numbers, list(known), config.stride, note) for name, rows in which.items()
    }


def _clips(config: SpeechCommandsConfig, origin: Origin, progress: Progress | None) -> cache.Part:
    base = cache.root(config.cache)
    identity = {"reader": READER, "files": files.stamp(origin.stamped)}
    work = base / "speech-commands" / f".{cache.fingerprint(identity)[:16]}.reading"

    def make(_: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        with scratch(work):
            arrays, words = collect(origin, work, progress)
            found = len(arrays["targets"])
            size = "" if found == OFFICIAL else f"; NOT the official number of clips, {OFFICIAL}"
            content = cache.content_hash(arrays["values"])
            told = f"{origin.path}, {counted(found, 'clip')}, content sha256 {content}{size}"
            log.info("speech-commands: %s", told)
            yield "clips", {**arrays, "words": np.frombuffer(json.dumps(words).encode(), np.uint8)}, told

    return cache.obtain(base, "speech-commands", identity, ["clips"], make)["clips"]


def _by_seed(targets: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return rows of each split, every word alike in each."""
    apart = held_out(targets[rows], HELD_OUT, seed)
    rest = Generator(PCG64(SeedSequence((seed, 1)))).permutation(rows[apart])
    rest = rest[np.argsort(targets[rest], kind="stable")]
    # Every second of them, word by word: halves of each word, but for one clip, and halves of all.
    return {"train": rows[~apart], "validation": np.sort(rest[1::2]), "test": np.sort(rest[::2])}
