"""Rows of the user's own, from a file: the arrays that a task's own rows have, checked against one of those."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Task

GIVEN_BY_NOBODY = ("targets", "length", "length_2")
"""Arrays of a row that a file need not have: answers, and lengths where all rows are as long."""


def read_rows(path: Path, task: Task) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a file: of .npz and .npy here, of any other kind as the task reads them.

    An .npz holds the arrays of :func:`ssm_data.load`'s rows under their names, rows on the first axis. Rows of unequal
    length are filled up to the longest, and ``length`` (n,) says where each ends. ``targets`` are not read. An .npy is
    the inputs alone.

    Raises:
        UserError: If the file is not there or damaged, or its arrays are not those of the task.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path.absolute()}", "--input FILE")
    if path.suffix not in (".npz", ".npy"):
        return task.read(path)
    known = next(iter(task.splits().values()))[0]
    arrays = _arrays(path, _along(known, ""))
    n = _check(path, arrays, known)
    return [_row(path, arrays, known, index) for index in range(n)]


def _along(known: Mapping[str, Any], second: str) -> str:
    """Return the array of a row that says how many elements it has: its inputs, or what comes first."""
    return f"inputs{second}" if f"inputs{second}" in known else next(iter(known))


def _arrays(path: Path, alone: str) -> dict[str, NDArray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {alone: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read: {error}", "write it with numpy.savez or numpy.save"
        ) from None


def _check(path: Path, arrays: Mapping[str, NDArray], known: Mapping[str, Any]) -> int:
    """Return the number of rows, if the arrays are those of the task and agree on it."""
    for name in arrays:
        if name not in known and name not in GIVEN_BY_NOBODY:
            raise UserError(
                f"{path} has an array '{name}', which rows of this task have not", did_you_mean(name, known)
            )
    for name in known:
        if name not in arrays and name not in GIVEN_BY_NOBODY:
            raise UserError(
                f"{path} has no array '{name}'; it has {', '.join(arrays) or 'none'}",
                f"a row of this task is {_told(known)}",
            )
    sizes = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"the arrays of {path} do not agree on a number of rows: {said}", "rows come first")
    return next(iter(sizes.values()))


def _row(path: Path, arrays: Mapping[str, NDArray], known: Mapping[str, Any], index: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, like in known.items():
        if name in GIVEN_BY_NOBODY:
            continue
        second = "_2" if name.endswith("_2") else ""
        array, like = arrays[name][index], np.asarray(like)
        along = _along(known, second)
        each = like.ndim > 0 and len(like) == len(known[along])
        where = f"{path}, row {index}: '{name}'"
        if array.ndim != like.ndim or array.shape[each:] != like.shape[each:]:
            expected = str(like.shape).replace(f"({len(like)}", "(L", 1) if each else str(like.shape)
            raise UserError(f"{where} has shape {array.shape}, not {expected}", f"a row is {_told(known)}")
        if each and f"length{second}" in arrays:
            array = array[: _length(where, arrays[f"length{second}"][index], len(array))]
        row[name] = _cast(where, array, like.dtype)
        if each and len(array) != len(row[along]):
            raise UserError(
                f"{where} has {len(array)} elements for {len(row[along])} of '{along}'",
                "each element has one of them",
            )
        row.setdefault(f"length{second}", np.int64(len(array)))
    return row


def _length(where: str, length: Any, most: int) -> int:
    if not (
        np.ndim(length) == 0 and np.issubdtype(np.asarray(length).dtype, np.integer) and 0 < length <= most
    ):
        raise UserError(
            f"{where} has the length {length}", f"lengths are whole numbers from 1 to {most} here"
        )
    return int(length)


def _cast(where: str, array: NDArray, kind: np.dtype) -> NDArray:
    """Return an array in the type of the task's own, if that holds its values."""
    whole = np.issubdtype(kind, np.integer)
    if not np.issubdtype(array.dtype, np.integer if whole else np.number) and array.dtype != kind:
        raise UserError(f"{where} is {array.dtype}, where the task has {kind}", f"write it as {kind}")
    with np.errstate(all="ignore"):
        cast = array.astype(kind)
    if whole and (cast != array).any():
        raise UserError(
            f"{where} goes from {array.min()} to {array.max()}, and the task's own are {kind}",
            "put it on the scale of the task's rows: ssm_data.load gives some",
        )
    return cast


def _told(known: Mapping[str, Any]) -> str:
    arrays = {name: np.asarray(value) for name, value in known.items() if name not in GIVEN_BY_NOBODY}
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
