"""Rows of a packed corpus: windows end to end, windows anywhere, or streams whose batches continue each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssm_data.cache import Part
from ssm_data.lm.packing import TokenizerPlace

IGNORED = -100
"""Target of an element that is not scored."""

MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Rows:
    """How rows are cut from a corpus.

    Attributes:
        length: Elements T of a row.
        sampling: ``tiles``, ``random`` or ``streams``.
        streams: Rows side by side, of ``streams``.
        n: Number of rows, of ``random``; 0 is as many as there are tiles.
        context: Elements that overlap the row before and are not scored, of ``tiles``.
        seed: Seed of ``random``.
        reset: Rows tell where documents begin.
        roll: Streams begin at another place in each epoch but the first, drawn by the seed.
        start: Where in the corpus they begin.
    """

    length: int
    sampling: Literal["tiles", "random", "streams"] = "tiles"
    streams: int = 1
    n: int = 0
    context: int = 0
    seed: int = 0
    reset: bool = False
    roll: bool = False
    start: int = 0


class TokenSplit:
    """One split of a packed corpus, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` (T,) of the corpus's own unsigned type, ``targets`` int32 (T,), the next tokens, -100
    where there is none or it is not scored, and with ``reset`` also ``reset`` bool (T,), True where a document begins.

    Attributes:
        part: Where it lies in the cache.
        cut: How rows are cut from it.
        tokenizer: Where the tokeniser lies.
        arrays: ``tokens`` (N,) and ``documents`` int64 (D + 1,), where each document begins, and N.
    """

    def __init__(self, part: Part, cut: Rows, tokenizer: TokenizerPlace) -> None:
        self.part, self.cut, self.tokenizer = part, cut, tokenizer
        self.arrays = {name: part.open(name) for name in ("tokens", "documents")}
        self._targets = len(self.arrays["tokens"]) - 1

    @property
    def streams(self) -> int:
        """Rows that run side by side: row i + streams goes on where row i ended; 0 if rows do not go on."""
        return self.cut.streams if self.cut.sampling == "streams" else 0

    def of_epoch(self, epoch: int) -> TokenSplit:
        """Return the split of an epoch, counted from 0: this one, or rolled, as long.

        The corpus is a circle then: the stream that reaches its end goes on with its beginning.
        """
        start = _drawn(self.cut.seed, epoch - 1) % self._targets if self.cut.roll and epoch else 0
        if start == self.cut.start:
            return self
        return TokenSplit(self.part, replace(self.cut, start=start), self.tokenizer)

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    @property
    def vocabulary(self) -> list[str]:
        """A name for each id."""
        return self.tokenizer.load().vocabulary

    def __len__(self) -> int:
        cut = self.cut
        if cut.sampling == "streams":
            return cut.streams * -(-self._per_stream // cut.length)
        if cut.sampling == "random" and cut.n:
            return cut.n
        stride = cut.length - cut.context
        return 1 + -(-max(0, self._targets - cut.length) // stride)

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        start, count = self._place(index)
        inputs = np.zeros(self.cut.length, self.arrays["tokens"].dtype)
        targets = np.full(self.cut.length, IGNORED, np.int32)
        begins = np.zeros(self.cut.length, np.bool_)
        for place, first, n in self._runs(start, count):
            tokens = np.asarray(self.arrays["tokens"][first : first + n + 1])
            inputs[place : place + n], targets[place : place + n] = tokens[:-1], tokens[1:]
            if self.cut.reset:
                begins[place + self._begins(first, n)] = True
        if index and self.cut.sampling == "tiles":
            targets[: self.cut.context] = IGNORED
        row = {"inputs": inputs, "targets": targets}
        return {**row, "reset": begins} if self.cut.reset else row

    @property
    def _per_stream(self) -> int:
        return -(-self._targets // self.cut.streams)

    def _place(self, index: int) -> tuple[int, int]:
        """Return where a row begins, and how many targets it has."""
        cut, end = self.cut, self._targets
        if cut.sampling == "streams":
            window, stream = divmod(index, cut.streams)
            end = min(end, (stream + 1) * self._per_stream)
            start = min(end, stream * self._per_stream + window * cut.length)
        elif cut.sampling == "random":
            start = _drawn(cut.seed, index) % (max(0, end - cut.length) + 1)
        else:
            start = index * (cut.length - cut.context)
        return start, min(cut.length, end - start)

    def _runs(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (place in the row, place in the corpus, elements) of what a row is read from: one run, or two."""
        first = (start + self.cut.start) % self._targets
        whole = min(count, self._targets - first)
        yield 0, first, whole
        if whole < count:
            yield whole, 0, count - whole

    def _begins(self, first: int, n: int) -> NDArray:
        """Return where in a run documents begin, counted from its first element."""
        documents = self.arrays["documents"]
        low, high = np.searchsorted(documents, [first, first + n])
        return np.asarray(documents[low:high]) - first

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenSplit, (self.part, self.cut, self.tokenizer)


def _drawn(seed: int, index: int) -> int:
    """Return 64 random bits of a seed and an index: row i is the same whichever rows were read before it."""
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
