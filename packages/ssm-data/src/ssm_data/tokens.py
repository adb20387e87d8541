"""Splits of token sequences that know their vocabulary, and vocabularies of bytes and characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_data.cache import Arrays, Part
from ssm_data.ragged import RaggedSplit

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
"""Ids that stand for no piece of the text: 0 is behind a row's end, 1 for characters outside the vocabulary."""

BATCH = 1 << 22
"""Characters that are counted at once."""

LAST = 0x110000
"""Number of Unicode's code points."""


class TokenSplit(RaggedSplit):
    """A split of token sequences with a label each. Pickles as its place on disk.

    Rows are dicts: ``inputs`` (L,) of a small unsigned type, ``targets`` (), and ``length`` int64 ().

    Args:
        part: Where it lies in the cache.
        vocabulary: What each id stands for.
        note: Added to the provenance.
    """

    def __init__(self, part: Part, vocabulary: Sequence[str], note: str = "") -> None:
        super().__init__(part)
        self.vocabulary = list(vocabulary)
        self.note = note

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance + self.note

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.part, self.vocabulary, self.note)


@dataclass(frozen=True)
class Alphabet:
    """The pieces of text that have an id each, and how a text becomes ids.

    Attributes:
        points: The characters' code points, in the order of their ids; None for bytes.
        end: Every text is closed by an id of its own.
    """

    points: tuple[int, ...] | None
    end: bool

    @property
    def vocabulary(self) -> list[str]:
        """What each id stands for; bytes are written as ``<0x41>``."""
        if self.points is None:  # a byte is its value plus 1, as in the original pipeline
            return [PAD, *(f"<0x{byte:02X}>" for byte in range(256)), *([END] if self.end else [])]
        return [PAD, UNKNOWN, *([END] if self.end else []), *map(chr, self.points)]

    @property
    def dtype(self) -> type[np.uint8 | np.uint16 | np.int32]:
        """The smallest type that holds every id."""
        size = len(self.vocabulary)
        return np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32

    @property
    def end_id(self) -> int:
        """The id that closes a text."""
        return self.vocabulary.index(END)

    def encode(self, texts: Iterable[str], longest: int) -> tuple[NDArray, NDArray[np.int64]]:
        """Return the ids of texts end to end, and their offsets (n + 1,); see :class:`Encoder`."""
        encoder = Encoder(self, longest)
        for text in texts:
            encoder.add(text)
        return encoder.arrays()

    def table(self) -> NDArray:
        """Return the id of every byte or code point."""
        if self.points is None:
            return np.arange(1, 257, dtype=self.dtype)
        table = np.full(LAST, self.vocabulary.index(UNKNOWN), self.dtype)
        first = len(self.vocabulary) - len(self.points)
        table[list(self.points)] = np.arange(first, first + len(self.points), dtype=self.dtype)
        return table


class Encoder:
    """Texts as ids, end to end, while they come in.

    Args:
        alphabet: What has an id.
        longest: Most ids of a text, the closing one included; what is too long of one is cut from its end.
    """

    def __init__(self, alphabet: Alphabet, longest: int) -> None:
        self.as_bytes, self.dtype = alphabet.points is None, np.dtype(alphabet.dtype)
        self.table = alphabet.table()
        self.closing = np.array([alphabet.end_id] if alphabet.end else [], self.dtype).tobytes()
        self.kept = longest - alphabet.end
        self.out, self.offsets = bytearray(), [0]

    def add(self, text: str) -> None:
        """Encode one more text."""
        self.out += self.table[_units(text, self.kept, self.as_bytes)].tobytes()
        self.out += self.closing
        self.offsets.append(len(self.out) // self.dtype.itemsize)

    def arrays(self) -> tuple[NDArray, NDArray[np.int64]]:
        """Return all ids, and where each text begins (n + 1,)."""
        return np.frombuffer(self.out, self.dtype), np.array(self.offsets, np.int64)


def of_characters(texts: Iterable[str], longest: int, least: int, end: bool) -> Alphabet:
    """Return the characters of texts, the most frequent first, ties by code point.

    Args:
        texts: Texts of the training split.
        longest: Most ids of a text; what is cut from it later is not counted either.
        least: Characters that occur less often have no id of their own.
        end: Every text is closed by an id of its own, which counts in ``longest``.
    """
    counts = np.zeros(LAST, np.int64)
    held: list[NDArray] = []
    size = 0
    for text in texts:
        held.append(_units(text, longest - end, False))
        size += len(held[-1])
        if size >= BATCH:
            counts += np.bincount(np.concatenate(held), minlength=LAST)
            held, size = [], 0
    if held:
        counts += np.bincount(np.concatenate(held), minlength=LAST)
    points = np.flatnonzero(counts >= max(least, 1))
    order = np.lexsort((points, -counts[points]))
    return Alphabet(tuple(points[order].tolist()), end)


def read_alphabet(part: Part, end: bool) -> Alphabet:
    """Return the alphabet that :func:`stored` put into a part."""
    return Alphabet(tuple(part.open("alphabet").tolist()), end)


def stored(alphabet: Alphabet) -> Arrays:
    """Return the array ``alphabet`` by which a part remembers its characters; nothing for bytes."""
    return {} if alphabet.points is None else {"alphabet": np.array(alphabet.points, np.int32)}


def _units(text: str, kept: int, as_bytes: bool) -> NDArray:
    """Return the bytes or the code points of a text's beginning."""
    beginning = text[: max(kept, 0)]  # of that many characters, which are at least as many bytes
    if as_bytes:
        return np.frombuffer(beginning.encode("utf-8", "surrogatepass"), np.uint8)[: max(kept, 0)]
    return np.frombuffer(beginning.encode("utf-32-le", "surrogatepass"), np.uint32)
