"""What a file is: cheap to ask on every start (a stamp), and dear but sure (a digest)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def stamp(paths: Iterable[Path]) -> str:
    """Return a hash of the files' places, sizes and times of change: for the identity of what was read from them.

    A folder stands for all files directly in it. The time of the last change of the entry (ctime) counts too: copying
    and unpacking put the time of the content (mtime) back, and no program can set this one.

    Args:
        paths: Files and folders, in an order that matters.
    """
    digest = hashlib.sha256()
    for path in paths:
        entries = [(str(path), path.stat())]
        if path.is_dir():
            with os.scandir(path) as inside:
                entries = sorted((entry.path, entry.stat()) for entry in inside if entry.is_file())
        for name, state in entries:
            fields = (name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            digest.update("\0".join(map(str, fields)).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
