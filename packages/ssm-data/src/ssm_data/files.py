"""What a file is: cheap to ask on every start (a stamp), and dear but sure (a digest)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def stamp(paths: Iterable[Path]) -> str:
    """Return a hash of the files' places, sizes and times of change: for the identity of what was read from them.

    A folder stands for all files directly in it.

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
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
