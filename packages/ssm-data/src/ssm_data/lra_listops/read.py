"""The official ListOps files, read strictly."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from ssm_core.protocols import Progress
from ssm_data import tsv
from ssm_data.cache import Arrays
from ssm_data.lra_listops.value import Malformed
from ssm_data.lra_listops.value import values as values_of
from ssm_data.lra_listops.vocabulary import END, IDS

READER = 2
"""Raised when the arrays from the same files change, or files are refused that were not."""

FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
FOLDERS = ("listops-1000", "listops")

NO_PARENTHESES = str.maketrans("()", "  ")

BLOCK = 500
"""Rows whose values are found at once."""


def read(path: Path, max_length: int, end: bool, progress: Progress | None = None) -> Arrays:
    """Read a file of lists and what they come to.

    Args:
        path: The file; columns ``Source`` and ``Target``.
        max_length: Every list is shorter, in tokens.
        end: Close each with an id of its own.
        progress: Told of every 1000 rows; the total is not known before the end.

    Returns:
        ``values`` uint8 ids end to end, ``offsets`` int64 (n + 1,), ``targets`` uint8 (n,).

    Raises:
        UserError: For anything that is not a list of that form, or does not come to its label; it names file and row.
    """
    values, offsets, targets = bytearray(), [0], bytearray()
    closing = bytes([END]) if end else b""
    block: list[bytes] = []
    for row, (source, target) in tsv.rows(path, ("Source", "Target"), header=True):
        block.append(_ids(path, row, source, max_length))
        values += block[-1] + closing
        offsets.append(len(values))
        targets.append(_label(path, row, target))
        if len(block) == BLOCK:
            _check(path, block, targets)
            block = []
        if progress and row % 1000 == 0:
            progress(f"lra-listops: reading {path.name}", row, row)
    if block:
        _check(path, block, targets)
    return {
        "values": np.frombuffer(values, np.uint8),
        "offsets": np.array(offsets, np.int64),
        "targets": np.frombuffer(targets, np.uint8),
    }


def _ids(path: Path, row: int, source: str, max_length: int) -> bytes:
    # Binary parentheses, which the official files add for tree models, hold nothing that brackets do not.
    tokens = source.translate(NO_PARENTHESES).split()
    if not 0 < len(tokens) < max_length:
        raise tsv.wrong(path, row, f"a list of {len(tokens)} tokens, not of 1 to {max_length - 1}")
    try:
        return bytes(map(IDS.__getitem__, tokens))
    except KeyError as error:
        raise tsv.wrong(path, row, f"{str(error.args[0])[:40]!r} is no token of ListOps") from None


def _label(path: Path, row: int, text: str) -> int:
    if len(text) != 1 or text not in "0123456789":
        raise tsv.wrong(path, row, f"the label {text[:40]!r} is not one of 0 to 9")
    return int(text)


def _check(path: Path, block: list[bytes], targets: bytearray) -> None:
    """Check that the last lists read are lists, and that their labels are what they come to."""
    before = len(targets) - len(block)
    offsets = np.array([0, *itertools.accumulate(map(len, block))])
    try:
        found = values_of(np.frombuffer(b"".join(block), np.uint8), offsets)
    except Malformed as error:
        raise tsv.wrong(path, before + error.place + 1, error.what) from None
    wrong = found != np.frombuffer(targets[before:], np.uint8)
    if wrong.any():
        first = int(wrong.argmax())
        what = f"the label is {targets[before + first]}, and its list comes to {found[first]}"
        raise tsv.wrong(path, before + first + 1, what)
