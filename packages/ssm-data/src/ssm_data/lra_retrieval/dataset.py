"""The splits of the retrieval task: pairs of texts, from the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache, files, sources
from ssm_data.lra_retrieval.read import FILES, FOLDERS, READER, read, texts
from ssm_data.lra_retrieval.spec import RetrievalConfig
from ssm_data.tokens import Alphabet, of_characters, read_alphabet

log = logging.getLogger(__name__)

ROWS = {"train": 147_086, "validation": 18_090, "test": 17_437}
"""Of the official files."""


class PairSplit:
    """A split of pairs of texts with a label each. Pickles as its place on disk.

    Rows are dicts: ``inputs`` (L,) and ``inputs_2`` (M,) of a small unsigned type, ``length`` and ``length_2`` int64
    (), ``targets`` uint8 ().

    Args:
        part: Where it lies in the cache.
        vocabulary: What each id stands for.
    """

    def __init__(self, part: cache.Part, vocabulary: Sequence[str]) -> None:
        self.part = part
        self.vocabulary = list(vocabulary)
        names = ("values", "offsets", "values_2", "offsets_2", "targets")
        self.arrays = {name: part.open(name) for name in names}

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["targets"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        row: dict[str, Any] = {"targets": np.array(self.arrays["targets"][index])}
        for tower in ("", "_2"):
            start, stop = self.arrays[f"offsets{tower}"][index : index + 2]
            row[f"inputs{tower}"] = np.array(self.arrays[f"values{tower}"][start:stop])
            row[f"length{tower}"] = np.int64(stop - start)
        return row

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of the longer text of each pair (n,): both are padded to the longest of a batch."""
        return np.maximum(np.diff(self.arrays["offsets"]), np.diff(self.arrays["offsets_2"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return PairSplit, (self.part, self.vocabulary)


def load_splits(config: RetrievalConfig, progress: Progress | None = None) -> dict[str, PairSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the files are not there or not sound, or the cache cannot be written.
    """
    found = _find(config.root)
    log.info("lra-retrieval: files in the official layout in %s", found["train"].parent)

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        alphabet = _alphabet(config, found["train"])
        for name in missing:
            arrays = read(found[name], alphabet, config.max_length, progress)
            yield name, arrays, sources.told(found[name], len(arrays["targets"]), ROWS[name])

    identity = {
        "reader": READER,
        "files": files.stamp(found.values()),
        **{name: getattr(config, name) for name in ("level", "append_eos", "max_length")},
        "min_freq": config.min_freq if config.level == "char" else None,
    }
    parts = cache.obtain(cache.root(config.cache), "lra-retrieval", identity, FILES, make)
    return {name: PairSplit(part, _vocabulary(config, part)) for name, part in parts.items()}


def _find(root: Path | None) -> dict[str, Path]:
    for suffix in ("", ".gz"):
        names = {split: name + suffix for split, name in FILES.items()}
        if folder := sources.find(FOLDERS, names.values(), root):
            return {split: folder / name for split, name in names.items()}
    raise sources.missing(
        "lra-retrieval",
        sources.candidates(FOLDERS, root),
        files=f"official files ({', '.join(FILES.values())}, or the same with .gz)",
    )


def _alphabet(config: RetrievalConfig, train: Path) -> Alphabet:
    if config.level == "byte":
        return Alphabet(None, config.append_eos)
    return of_characters(texts(train), config.max_length, config.min_freq, config.append_eos)


def _vocabulary(config: RetrievalConfig, part: cache.Part) -> list[str]:
    end = config.append_eos
    alphabet = Alphabet(None, end) if config.level == "byte" else read_alphabet(part, end)
    return alphabet.vocabulary
