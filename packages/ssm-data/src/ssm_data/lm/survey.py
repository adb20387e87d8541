"""What the files of a corpus hold: size and hash of each text, read once and then known by the files' stamps."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.files import hashed, stamp
from ssm_data.lm.corpus import read_blocks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextFile:
    """A file as it was found.

    Attributes:
        path: Where it lies.
        size: Bytes of text, unpacked.
        sha256: Hash of the text.
    """

    path: Path
    size: int
    sha256: str


def survey(files: Sequence[Path], task: str, base: Path, progress: Progress | None = None) -> list[TextFile]:
    """Return size and hash of files; empty ones are left out.

    What was found is kept in the cache by the files' stamp: as long as no file changes, none of them is read again.

    Args:
        files: The files.
        task: Name of the task, for the path and for messages.
        base: The cache folder.
        progress: Told of the bytes done; of packed files the total is not known before the end.

    Raises:
        UserError: If one cannot be read, all are empty, or the cache cannot be written.
    """

    def make(_: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        found = list(_read(files, task, progress))
        if not any(file.size for file in found):
            raise UserError(
                f"{task}: {files[0]} is empty" + (", and so is every other file" if files[1:] else "")
            )
        hashes = np.frombuffer(bytes.fromhex("".join(file.sha256 for file in found)), np.uint8)
        sizes = np.array([file.size for file in found], np.int64)
        held = {"sizes": sizes, "sha256": hashes.reshape(-1, 32)}
        yield "texts", held, "bytes and hashes of a corpus's texts"

    known = cache.obtain(base, f"{task}-files", {"files": stamp(files)}, ["texts"], make)["texts"]
    columns = zip(files, known.open("sizes").tolist(), known.open("sha256"), strict=True)
    full = [TextFile(path, size, sha256.tobytes().hex()) for path, size, sha256 in columns if size]
    if len(full) < len(files):
        log.warning("%s: %d of %d files are empty and left out", task, len(files) - len(full), len(files))
    return full


def _read(files: Sequence[Path], task: str, progress: Progress | None) -> Iterator[TextFile]:
    done, total = 0, sum(file.stat().st_size for file in files) if progress else 0
    for file in files:
        digest, before = hashlib.sha256(), done
        for block in read_blocks(file):
            digest.update(block)
            done += len(block)
            if progress:
                progress(f"{task} data: hashing", done, max(done + 1, total))
        yield TextFile(file, done - before, digest.hexdigest())
    if progress:
        progress(f"{task} data: hashing", done, done)


def told(files: Sequence[TextFile]) -> str:
    """Return the words on size and hash of texts, which tell them from others wherever they lie."""
    packed = " unpacked" if any(file.path.suffix == ".gz" for file in files) else ""
    return f"{sum(file.size for file in files)} bytes{packed}, {hashed([file.sha256 for file in files])}"
