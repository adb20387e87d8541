"""What a file is: cheap to ask on every start (a stamp), and dear but sure (a digest)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssm_core.plugin.errors import UserError


def stamp(paths: Iterable[Path]) -> str:
    """Return a hash of the files' places, sizes and times of change: for the identity of what was read from them.

    A folder stands for all files directly in it. The time of the last change of the entry (ctime) counts too: copying
    and unpacking put the time of the content (mtime) back, and no program can set this one.

    Args:
        paths: Files and folders, in an order that matters.

    Raises:
        UserError: If one cannot be looked at.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            entries = _entries(path)
        except OSError as error:
            raise unreadable(path, error) from error
        for name, state in entries:
            fields = (name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            digest.update("\0".join(map(str, fields)).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def _entries(path: Path) -> list[tuple[str, os.stat_result]]:
    if not path.is_dir():
        return [(str(path), path.stat())]
    with os.scandir(path) as inside:
        return sorted((entry.path, entry.stat()) for entry in inside if entry.is_file())


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def content(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def inside(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name.

    Raises:
        UserError: If it is none, or may not be looked into.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error


def is_there(path: Path) -> bool:
    """Whether there is a file or folder.

    Raises:
        UserError: If that cannot be told, for want of the right to look.
    """
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a file or folder that the system does not let read."""
    return UserError(
        f"{path} cannot be read: {error.strerror or error}",
        "put what the data set's layout has there again, or mend the rights to read it",
    )


def hashed(hashes: Sequence[str]) -> str:
    """Return the words for the sha256 of one file or several, in an order that matters.

    Args:
        hashes: That of each file. Several become one: that of the lines that they make, as by
            ``sha256sum FILES | cut -c -64 | sha256sum``.
    """
    if len(hashes) == 1:
        return f"sha256 {hashes[0]}"
    digest = hashlib.sha256("".join(f"{each}\n" for each in hashes).encode())
    return f"sha256 of the sha256 of {len(hashes)} files {digest.hexdigest()}"
