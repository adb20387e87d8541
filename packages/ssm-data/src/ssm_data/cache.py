"""A disk cache of arrays that survives kills, races, corruption and full disks.

One folder is one data set, named by the hash of what it was made from; in it, one folder a part (a split) holds
``.npy`` files and a manifest. A part is written beside its final name, synced and renamed, under a lock of its data
set: what stands under a final name is whole. Readers check the hash of every file and need no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import AcquireReturnProxy, FileLock
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"

Arrays: TypeAlias = Mapping[str, NDArray]
Make: TypeAlias = Callable[[list[str]], Iterable[tuple[str, Arrays, str]]]
"""Makes the missing parts: yields name, arrays and where they come from."""


@dataclass(frozen=True)
class Part:
    """A part of a data set as it lies in the cache.

    Attributes:
        folder: Where it lies.
        provenance: Where it comes from, in words.
        fingerprint: Hash of what it was made from and of its content.
        content: Hash of its content alone: the same wherever the files lay that it was read from.
    """

    folder: Path
    provenance: str
    fingerprint: str
    content: str = ""

    def open(self, name: str) -> NDArray:
        """Map an array into memory, read-only; its pages are shared by all processes that do."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def root(chosen: Path | None = None) -> Path:
    """Return the cache folder: the chosen one, else ``$SSM_DATA_DIR``, else ``~/.cache/ssm/data``."""
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    if given := os.environ.get("SSM_DATA_DIR"):
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ssm" / "data"


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the hash of plain values, the same whatever their order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def content_hash(array: NDArray) -> str:
    """Return the sha256 of an array's values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def obtain(
    base: Path, task: str, identity: Mapping[str, Any], names: Iterable[str], make: Make
) -> dict[str, Part]:
    """Return parts of a data set from the cache, making those that are missing or damaged.

    Args:
        base: The cache folder, from :func:`root`.
        task: Name of the task, for the path and for messages.
        identity: Everything the data is made from, as plain values.
        names: Parts that are wanted.
        make: Called with the names of the missing parts.

    Returns:
        Part of each name.

    Raises:
        UserError: If the cache cannot be written.
    """
    names = list(names)
    folder = base / task / fingerprint(identity)[:16]
    if parts := _read_all(folder, names):
        return parts
    with _lock(folder):
        # Another process may have made them while this one waited.
        missing = [name for name in names if read(folder / name, notice=True) is None]
        for name, arrays, provenance in make(missing) if missing else ():
            with _told_to_user(folder):
                write(folder / name, arrays, identity, provenance)
    if parts := _read_all(folder, names):
        return parts
    raise UserError(
        f"{task} data in {folder} cannot be read back after writing",
        "another program may be changing that folder, or the disk is failing; try another SSM_DATA_DIR",
    )


def _read_all(folder: Path, names: Iterable[str]) -> dict[str, Part] | None:
    parts = {}
    for name in names:
        if (part := read(folder / name)) is None:
            return None
        parts[name] = part
    return parts


def write(folder: Path, arrays: Arrays, identity: Mapping[str, Any], provenance: str) -> None:
    """Write a part so that it is there either whole or not at all. The caller holds the lock.

    Args:
        folder: Final place of the part; what stands there is replaced.
        arrays: Arrays by name.
        identity: What they were made from.
        provenance: Where they come from, in words.

    Raises:
        OSError: If the disk is full or may not be written; nothing is left behind then.
    """
    draft, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for rubble in (draft, old):  # of a killed process: who holds the lock is alone here
        shutil.rmtree(rubble, ignore_errors=True)
    draft.mkdir()
    try:
        files = {name: _write_array(draft / f"{name}.npy", array) for name, array in arrays.items()}
        contents = {name: row["content"] for name, row in files.items()}
        manifest = {
            "fingerprint": fingerprint({"identity": identity, "contents": contents}),
            "provenance": provenance,
            "identity": identity,
            "files": files,
        }
        with (draft / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            _sync(file.fileno())
        _sync_folder(draft)
        if folder.exists():
            folder.rename(old)  # not deleted in place: a kill would leave half of it under the real name
        draft.rename(folder)
        _sync_folder(folder.parent)
    finally:
        for rubble in (draft, old):
            shutil.rmtree(rubble, ignore_errors=True)


def read(folder: Path, notice: bool = False) -> Part | None:
    """Return a part if every file is as it was written, None if it is missing or damaged.

    Args:
        folder: Place of the part.
        notice: Log what is damaged.
    """
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, row in manifest["files"].items():
            with (folder / f"{name}.npy").open("rb") as file:
                same_size = os.fstat(file.fileno()).st_size == row["bytes"]
                if not same_size or hashlib.file_digest(file, "sha256").hexdigest() != row["sha256"]:
                    raise ValueError(f"{name}.npy is not what was written")
        content = fingerprint({name: row["content"] for name, row in manifest["files"].items()})
        return Part(folder, manifest["provenance"], manifest["fingerprint"], content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if notice:
            log.warning("cached data in %s is damaged (%s) and is made anew", folder, error)
        return None


def _write_array(path: Path, array: NDArray) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        _sync(file.fileno())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest, "content": content_hash(array)}


def _sync(handle: int) -> None:
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renames are logged by the file system
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _lock(folder: Path) -> AcquireReturnProxy:
    with _told_to_user(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock").acquire()


@contextlib.contextmanager
def _told_to_user(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {folder}: {error.strerror or error}",
            "make room or get write access there, or name another folder: SSM_DATA_DIR=... or --set task.cache=...",
        ) from error
