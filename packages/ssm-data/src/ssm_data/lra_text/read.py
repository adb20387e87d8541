"""The IMDB reviews as they lie on disks and on the hub, read strictly."""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import files, tsv
from ssm_data.lra_text.spec import HUB

READER = 1
"""Raised when the reviews from the same files change."""

PARTS = ("train", "test")
LABELS = ("neg", "pos")
"""Names of the two classes; their places are the labels."""

OFFICIAL = 25_000
"""Reviews of each part."""

NAME = re.compile(r"(\d+)_\d+\.txt")
"""A review's number and its rating."""

FOLDER = "aclImdb"
ARCHIVE = "aclImdb_v1.tar.gz"
PARQUET = {part: f"plain_text/{part}-00000-of-00001.parquet" for part in PARTS}


@dataclass
class Reviews:
    """Reviews of a part.

    Attributes:
        texts: The texts.
        labels: 1 for good, 0 for bad.
    """

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def digest(self) -> str:
        """Return the sha256 of texts and labels."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{label}\t{len(text)}\t{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def folder(path: Path, progress: Progress | None = None) -> dict[str, Reviews]:
    """Read the unpacked layout: ``train|test / neg|pos / NUMBER_RATING.txt``, in the order of class and number.

    Raises:
        UserError: For a file of another name, an empty one, one that is not UTF-8 or cannot be read.
    """
    found = {}
    for part in PARTS:
        listed = [(file, label) for label, name in enumerate(LABELS) for file in _sorted(path / part / name)]
        found[part] = _collect(((file, files.content(file), label) for file, label in listed), part, progress)
    return found


def _sorted(path: Path) -> list[Path]:
    return sorted(files.inside(path), key=lambda file: _number(file, file.name))


def _number(path: Path, name: str) -> int:
    if not (match := NAME.fullmatch(name)):
        raise tsv.wrong(path, 0, f"'{name}' is no review's name: NUMBER_RATING.txt")
    return int(match[1])


def archive(path: Path, progress: Progress | None = None) -> dict[str, Reviews]:
    """Read the official archive as it is, without unpacking it.

    Raises:
        UserError: If it is damaged, cut short, or has a member outside its folder.
    """
    held: dict[tuple[str, int], list[tuple[int, Path, bytes]]] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as file:
                for row, member in enumerate(file, 1):
                    if key := _place(path, row, member):
                        data = file.extractfile(member)
                        assert data is not None
                        name = PurePosixPath(member.name).name
                        number = _number(path, name)
                        held.setdefault(key, []).append((number, path / member.name, data.read()))
            # A file that is cut short looks to tarfile like one that ends; gzip knows its own end.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise tsv.wrong(path, 0, f"the archive is damaged or cut short ({error})") from error
    return {
        part: _collect(
            [
                (file, data, label)
                for label in range(len(LABELS))
                for _, file, data in sorted(held.get((part, label), []))
            ],
            part,
            progress,
        )
        for part in PARTS
    }


def _place(path: Path, row: int, member: tarfile.TarInfo) -> tuple[str, int] | None:
    """Return part and label of a member, None if it is no labelled review."""
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or place.parts[:1] != (FOLDER,):
        raise tsv.wrong(path, row, f"member '{member.name}' lies outside the folder {FOLDER}")
    parts = place.parts[1:]
    if not member.isfile() or len(parts) != 3 or parts[0] not in PARTS or parts[1] not in LABELS:
        return None
    return parts[0], LABELS.index(parts[1])


def _collect(rows: Iterable[tuple[Path, bytes, int]], part: str, progress: Progress | None) -> Reviews:
    reviews = Reviews()
    for row, (file, data, label) in enumerate(rows, 1):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise tsv.wrong(file, row, f"byte {error.start + 1} is not UTF-8 ({error.reason})") from None
        if not text:
            raise tsv.wrong(file, row, "the review is empty")
        reviews.texts.append(text)
        reviews.labels.append(label)
        if progress and row % 1000 == 0:
            progress(f"lra-text: reading {part}", row, OFFICIAL)
    return reviews


def parquet(found: dict[str, Path]) -> dict[str, Reviews]:
    """Read the hub's files: columns ``text`` and ``label``.

    Raises:
        UserError: If one is damaged, or a row is not a text with a label of 0 or 1.
    """
    from datasets import Dataset

    parts = {}
    with tempfile.TemporaryDirectory() as place:  # the library's own copy, of which nothing is to be left
        for part, file in found.items():
            try:
                data = Dataset.from_parquet(str(file), cache_dir=place, keep_in_memory=True)
            except Exception as error:  # the library raises errors of many kinds for a bad file
                reason = error.__cause__ or error
                raise tsv.wrong(file, 0, f"the file is damaged or no Parquet file ({reason})") from error
            parts[part] = _table(file, data)
    return parts


def hub(revision: str) -> dict[str, Reviews]:
    """Download the reviews at a revision.

    Raises:
        UserError: If they cannot be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = Path(f"{HUB}@{revision}")
    try:
        found = load_dataset(HUB, "plain_text", revision=revision)
        data = {part: found[part] for part in PARTS}
    except (OSError, ValueError, RuntimeError, KeyError, DatasetsError) as error:
        raise UserError(
            f"lra-text cannot download {place}: {error}",
            f"put {FOLDER}/ or {ARCHIVE} under a data root instead: --set task.root=... or SSM_DATA_ROOT=...",
        ) from error
    return {part: _table(place / part, data[part]) for part in PARTS}


def _table(place: Path, data: Any) -> Reviews:
    if not {"text", "label"} <= set(data.column_names):
        raise tsv.wrong(place, 0, f"it has no columns text and label, but {', '.join(data.column_names)}")
    reviews = Reviews(list(data["text"]), list(data["label"]))
    for row, (text, label) in enumerate(zip(reviews.texts, reviews.labels, strict=True), 1):
        if not isinstance(text, str) or not text:
            raise tsv.wrong(place, row, "the review is empty")
        if label not in (0, 1):
            raise tsv.wrong(place, row, f"the label {label!r} is neither 0 nor 1")
    return reviews


def check_sizes(place: str, reviews: dict[str, Reviews]) -> str:
    """Return what is to be said of the number of reviews; nothing if it is the official one.

    Raises:
        UserError: If a part has none.
    """
    for part, each in reviews.items():
        if not each.texts:
            raise UserError(f"{place} has no reviews for '{part}'", "fetch the data set again")
    sizes = [len(reviews[part].texts) for part in PARTS]
    return "" if sizes == [OFFICIAL] * 2 else f"; NOT the official size: {sizes[0]} and {sizes[1]} reviews"


def listed(path: Path) -> Sequence[Path]:
    """Return the folders whose files are the reviews of an unpacked layout."""
    return [path / part / name for part in PARTS for name in LABELS]
