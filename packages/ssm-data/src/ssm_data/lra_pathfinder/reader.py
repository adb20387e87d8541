"""Pathfinder as the Long Range Arena released it: folders of PNGs, and lists of them in two formats."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssm_core.plugin.errors import UserError
from ssm_data import files

log = logging.getLogger(__name__)

READER = 1
"""Raised when the arrays made from the same files change."""

KNOWN_EMPTY = ("pathfinder32", "curv_baseline", "imgs/0/sample_172.png")
"""The one picture of the release that is an empty file; it is left out."""

NUMPY = b"\x93NUMPY"
LABEL = 3
"""Column of the label; before it come the folder, the file and its number."""


@dataclass(frozen=True)
class Listed:
    """A picture that the metadata list.

    Attributes:
        file: Its path below the folder of the difficulty.
        label: 0 or 1.
        where: The list and the row in it, for messages.
    """

    file: str
    label: int
    where: str


def lists(folder: Path) -> list[Path]:
    """Return the metadata files of a difficulty, by number.

    Raises:
        UserError: If there are none, or one is not named by a number.
    """
    found = sorted((folder / "metadata").glob("*.npy"))
    for path in found:
        if not path.stem.isdecimal():
            raise UserError(f"{path} is not named by a number, as lists of pictures are")
    if not found:
        raise UserError(
            f"{folder / 'metadata'} holds no lists of pictures (*.npy)", "unpack the release again"
        )
    return sorted(found, key=lambda path: int(path.stem))


def listed(folder: Path, expected: int) -> list[Listed]:
    """Return all pictures of a difficulty, in the order of the lists.

    Args:
        folder: Such as ``pathfinder32/curv_contour_length_14``.
        expected: How many there have to be; 0 takes what is there.

    Raises:
        UserError: If a list is damaged, or there are not as many; names file and row.
    """
    rows = [row for path in lists(folder) for row in _rows(path)]
    if expected and len(rows) != expected:
        raise UserError(
            f"the lists in {folder / 'metadata'} have {len(rows)} pictures, not {expected}",
            "unpack the whole release, or say how many there are to be: --set task.expected_rows=...",
        )
    kept = [row for row in rows if not (has_empty(folder) and row.file == KNOWN_EMPTY[2])]
    if len(kept) != len(rows):
        log.info("lra-pathfinder: %s is left out, a file known to be empty", folder / KNOWN_EMPTY[2])
    if not kept:
        raise UserError(f"the lists in {folder / 'metadata'} are empty")
    return kept


def has_empty(folder: Path) -> bool:
    """Whether a folder is that of the difficulty in which the release has an empty picture."""
    return folder.parts[-2:] == KNOWN_EMPTY[:2]


def fingerprint(folder: Path) -> str:
    """Return the sha256 of all lists of a difficulty."""
    total = hashlib.sha256()
    for path in lists(folder):
        total.update(files.content(path))
    return total.hexdigest()


def read(folder: Path, rows: Sequence[Listed], size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures (size * size,) of some rows.

    Raises:
        UserError: If a file is missing, empty, damaged or of another size; names it and its row.
    """
    for row in rows:
        path = folder / row.file
        try:
            with Image.open(path) as image:
                image.load()
                found, mode = image.size, image.mode
                pixels = np.asarray(image)
        except FileNotFoundError:
            raise UserError(f"{path} is not there ({row.where})", "unpack the release again") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "it is empty" if path.exists() and not path.stat().st_size else str(error)
            raise UserError(
                f"{path} cannot be read: {reason} ({row.where})", "unpack the release again"
            ) from None
        if found != (size, size) or mode != "L":
            raise UserError(f"{path} is {found} in mode {mode}, not {(size, size)} in grey ({row.where})")
        yield pixels.reshape(-1)


def _rows(path: Path) -> Iterator[Listed]:
    for number, columns in enumerate(_columns(path), 1):
        where = f"{path}, row {number}"
        if len(columns) <= LABEL:
            raise UserError(f"{where} has {len(columns)} columns, not the release's 11")
        folder, name, _, label = columns[: LABEL + 1]
        if label not in ("0", "1"):
            raise UserError(f"{where}: label {label!r} is not 0 or 1")
        file = PurePosixPath(folder, name)
        if file.is_absolute() or ".." in file.parts or "\\" in str(file):
            raise UserError(f"{where}: {file} lies outside of the folder")
        yield Listed(str(file), int(label), where)


def _columns(path: Path) -> Iterator[list[str]]:
    """Yield the columns of each row: of text, as released, or of an array of strings, as the program writes it."""
    content = files.content(path)
    if content.startswith(NUMPY):
        try:
            table = np.load(path, allow_pickle=False)
            if table.ndim != 2 or table.dtype.kind not in "US":
                raise ValueError(f"it is an array {table.shape} of {table.dtype}, not rows of strings")
            yield from np.char.decode(table).tolist() if table.dtype.kind == "S" else table.tolist()
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is damaged: {error}", "unpack the release again") from None
        return
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is neither text nor an array: {error}", "unpack the release again") from None
    yield from (line.split() for line in lines)
