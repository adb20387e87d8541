"""The official files of pairs of papers, read strictly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssm_core.protocols import Progress
from ssm_data import tsv
from ssm_data.cache import Arrays
from ssm_data.tokens import Alphabet, Encoder, stored

READER = 1
"""Raised when the arrays from the same files change."""

FOLDERS = ("tsv_data", "aan")
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
COLUMNS = ("label", "id of the first", "id of the second", "first text", "second text")

LABELS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}


def texts(path: Path) -> Iterator[str]:
    """Yield both texts of every pair."""
    for _, (_, _, _, first, second) in tsv.rows(path, COLUMNS):
        yield first
        yield second


def read(path: Path, alphabet: Alphabet, longest: int, progress: Progress | None = None) -> Arrays:
    """Read a file of pairs.

    Args:
        path: The file; five columns, no header, no quoting.
        alphabet: What has an id.
        longest: Most ids of a text.
        progress: Told of every 1000 rows; the total is not known before the end.

    Returns:
        ``values`` and ``values_2`` ids end to end, ``offsets`` and ``offsets_2`` int64 (n + 1,), ``targets`` uint8
        (n,), and the ``alphabet`` of characters.

    Raises:
        UserError: For a row that is no pair; it names file and row.
    """
    towers = (Encoder(alphabet, longest), Encoder(alphabet, longest))
    targets = bytearray()
    for row, (label, _, _, *both) in tsv.rows(path, COLUMNS):
        if label not in LABELS:
            raise tsv.wrong(path, row, f"the label {label[:40]!r} is neither 0.0 nor 1.0")
        targets.append(LABELS[label])
        for tower, text in zip(towers, both, strict=True):
            tower.add(text)
        if progress and row % 1000 == 0:
            progress(f"lra-retrieval: reading {path.name}", row, row)
    (values, offsets), (values_2, offsets_2) = (tower.arrays() for tower in towers)
    return {
        "values": values,
        "offsets": offsets,
        "values_2": values_2,
        "offsets_2": offsets_2,
        "targets": np.frombuffer(targets, np.uint8),
        **stored(alphabet),
    }
