"""Tasks of recall: rows of tokens, a few of which have an answer. Stored small, handed out with labels everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Needs, Progress, Split
from ssm_data.cache import Part
from ssm_data.classify import Labelling
from ssm_data.synthetic import Drawn

IGNORED = -100
"""Label of an element without an answer."""


class RecallSplit:
    """One split, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` (L,), ids in the smallest type that holds them (uint8, uint16 or int32), and ``targets``
    (L,), int16 (int32 for more than 32,768 ids), -100 where there is nothing to answer.

    Attributes:
        part: Where it lies in the cache, and what it was made from.
        arrays: ``inputs`` (n, L), ``answers`` (n, K), and ``positions`` (n, K), where in the row they are due.
        vocabulary: Name of each id.
    """

    def __init__(self, part: Part, size: int, names: Mapping[int, str]) -> None:
        self.part = part
        self.arrays = {name: part.open(name) for name in ("inputs", "answers", "positions")}
        self.vocabulary = [names.get(token, str(token)) for token in range(size)]
        self._size, self._names = size, dict(names)
        self._kind = np.int16 if size <= 1 << 15 else np.int32

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["inputs"])

    def __getitem__(self, index: int) -> dict[str, NDArray]:
        inputs = np.array(self.arrays["inputs"][index])
        targets = np.full(len(inputs), IGNORED, self._kind)
        targets[self.arrays["positions"][index]] = self.arrays["answers"][index]
        return {"inputs": inputs, "targets": targets}

    def __reduce__(self) -> tuple[Any, ...]:
        return RecallSplit, (self.part, self._size, self._names)


class Recall(Labelling):
    """A task of recall: every answer is an id, due at its place in the row; accuracy is of single answers.

    Args:
        drawn: How its splits are drawn: arrays ``inputs``, ``answers`` and ``positions``.
        vocabulary: Number of ids.
        names: Names of special ids; the others go by their number.
        max_length: Longest row.
        cache: Folder of made data, or None.
    """

    needs = Needs(causal=True)

    def __init__(
        self, drawn: Drawn, vocabulary: int, names: Mapping[int, str], max_length: int, cache: Path | None
    ) -> None:
        self.drawn = drawn
        self.vocabulary_size = vocabulary
        self.max_length = max_length
        self.labels = [names.get(token, str(token)) for token in range(vocabulary)]
        self._names, self._cache = names, cache
        self._splits: dict[str, Split] = {}

    def prepare(self, progress: Progress | None = None) -> None:
        """Make the data if it is not cached yet (seconds); safe from several processes at once.

        Raises:
            UserError: If the cache cannot be written.
        """
        if not self._splits:
            parts = self.drawn.parts(self._cache, progress)
            self._splits = {
                name: RecallSplit(part, self.vocabulary_size, self._names) for name, part in parts.items()
            }

    def splits(self) -> Mapping[str, Split]:
        """Return ``train``, ``validation`` and ``test``, making them if :meth:`prepare` was not called."""
        self.prepare()
        return dict(self._splits)
