"""Rows of the user's own: from a file or from memory, checked against a row of the task's own data."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Task

MAY_LACK = ("name", "targets", "length", "length_2", "reset")
"""What a row need not have: a word for it, answers, its lengths, and the beginning of a document."""

DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises at a file that is none of its own, damaged or packed in a way that it does not know."""


def read_rows(source: Path | Iterable[Mapping[str, Any]], task: Task, name: str = "") -> list[dict[str, Any]]:
    """Return the rows of a file, of .npz and .npy here and of any other kind as the task reads them; or rows in memory.

    An .npz holds the arrays of :func:`ssm_data.load`'s rows under their names, rows on the first axis. Rows of unequal
    length are filled up to the longest, and ``length`` (n,) says where each ends. ``targets`` are not read. An .npy is
    the inputs alone.

    Args:
        source: A file, or rows.
        task: Its data, prepared, say what a row is.
        name: The task's name, for messages.

    Raises:
        UserError: If the file is not there or damaged, or rows are not those of the task.
    """
    known = next(iter(task.splits().values()))[0]
    if not isinstance(source, Path):
        rows = list(source)
    elif not _there(source):
        raise UserError(f"there is no file {source.absolute()}", "--input FILE")
    elif source.suffix.lower() in (".npz", ".npy"):
        rows = _unpacked(source, _arrays(source, _along(known)), known)
    else:
        rows = list(task.read(source))
    whose = str(source) if isinstance(source, Path) else "the input"
    if not rows:
        raise UserError(f"{whose} has no rows", f"a row of {name or 'the task'} is {_told(known)}")
    return [_fitting(f"{whose}, row {_name(row, place)}", row, known) for place, row in enumerate(rows)]


def _there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its name and its rights") from None


def _name(row: Any, place: int) -> Any:
    return row.get("name", place) if isinstance(row, Mapping) else place


def _along(known: Mapping[str, Any], second: str = "") -> str:
    """Return the array of a row that says how many elements it has: its inputs, or what comes first."""
    return f"inputs{second}" if f"inputs{second}" in known else next(iter(known))


def _arrays(path: Path, alone: str) -> dict[str, NDArray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {alone: loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its rights") from None
    except DAMAGED as error:
        raise UserError(
            f"{path} cannot be read: {error}", "write it with numpy.savez or numpy.save"
        ) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path} cannot be read: '{name}' is no array", "write it with numpy.savez")
    return arrays


def _unpacked(path: Path, arrays: Mapping[str, NDArray], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that arrays hold, each cut to its length."""
    sizes = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        said = ", ".join(f"{name} {'is a number' if n is None else n}" for name, n in sizes.items())
        raise UserError(f"the arrays of {path} do not agree on a number of rows: {said}", "rows come first")
    lengths = {name: array for name, array in arrays.items() if name in ("length", "length_2")}
    rows = []
    for place in range(next(iter(sizes.values()), 0) or 0):
        row = {name: array[place] for name, array in arrays.items() if name not in (*lengths, "targets")}
        for name, held in lengths.items():
            second = name.removeprefix("length")
            size, most = held[place], len(row.get(f"inputs{second}", ()))
            whole = np.ndim(size) == 0 and np.issubdtype(held.dtype, np.integer)
            if not (whole and 0 < size <= most):
                raise UserError(
                    f"{path}, row {place}: '{name}' is {size}",
                    f"lengths are whole numbers from 1 to {most} here",
                )
            row |= {each: row[each][: int(size)] for each in _by_element(known, second) if each in row}
        rows.append(row)
    return rows


def _by_element(known: Mapping[str, Any], second: str) -> list[str]:
    """Return the arrays of a row that have as many entries as it has elements; ``_2`` are those of a second text."""
    length = len(known[_along(known, second)])
    same = [name for name in known if name.endswith("_2") == bool(second) and name not in MAY_LACK]
    return [name for name in same if np.ndim(known[name]) > 0 and len(known[name]) == length]


def _fitting(where: str, row: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its arrays in the types of the task's own.

    Raises:
        UserError: If it is not what the task's rows are.
    """
    told = f"a row is {_told(known)}"
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is a {type(row).__name__}", "give a list of dicts of arrays")
    for name in row:
        if name not in known and name not in MAY_LACK:
            raise UserError(
                f"{where}: rows of this task have no array '{name}'", f"{did_you_mean(name, known)}; {told}"
            )
    out = {name: value for name, value in row.items() if name in MAY_LACK}
    for name, value in known.items():
        if name in MAY_LACK and not (name == "reset" and name in row):
            continue
        if name not in row:
            raise UserError(f"{where} has no array '{name}'; it has {', '.join(row) or 'none'}", told)
        second = "_2" if name.endswith("_2") else ""
        each = name in _by_element(known, second)
        out[name] = _cast(f"{where}: '{name}'", np.asarray(row[name]), np.asarray(value), each, told)
        along = out[_along(known, second)]
        if each and len(out[name]) != len(along):
            raise UserError(f"{where}: '{name}' has {len(out[name])} elements for {len(along)} inputs", told)
    if "time_points" in out and not (np.diff(out["time_points"]) > 0).all():
        raise UserError(f"{where}: 'time_points' do not increase", "sort the elements of the row by time")
    lengths = {
        f"length{second}": np.int64(len(out[f"inputs{second}"]))
        for second in ("", "_2")
        if f"inputs{second}" in out
    }
    return out | lengths


def _cast(where: str, array: NDArray, like: NDArray, each: bool, told: str) -> NDArray:
    """Return an array in the type of the task's own, if it has its shape and that type holds its values."""
    if array.ndim != like.ndim or array.shape[each:] != like.shape[each:]:
        inner = "".join(f", {size}" for size in like.shape[1:]) or ","
        raise UserError(f"{where} has shape {array.shape}, not {f'(L{inner})' if each else like.shape}", told)
    if each and not len(array):
        raise UserError(f"{where} has no elements", told)
    kind = like.dtype
    whole = np.issubdtype(kind, np.integer)
    if array.dtype != kind and array.dtype.kind not in ("iu" if whole else "iuf"):
        raise UserError(f"{where} is {array.dtype}, where the task has {kind}", told)
    with np.errstate(all="ignore"):
        cast = array.astype(kind)
    if whole and (cast != array).any():
        raise UserError(
            f"{where} goes from {array.min()} to {array.max()}, and the task's own are {kind}",
            "put it on the scale of the task's rows: ssm_data.load gives some",
        )
    return cast


def _told(known: Mapping[str, Any]) -> str:
    arrays = {name: np.asarray(value) for name, value in known.items() if name not in MAY_LACK}
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
