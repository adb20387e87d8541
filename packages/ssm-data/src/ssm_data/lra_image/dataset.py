"""The splits of the image task, from the cache, which is filled from files or the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, sources
from ssm_data.files import sha256
from ssm_data.lra_image import cifar, idx
from ssm_data.lra_image.cifar import Pictures
from ssm_data.lra_image.spec import LRAImageConfig
from ssm_data.pixels import PixelSplit, Selection

log = logging.getLogger(__name__)

READER = 2
"""Raised when the arrays made from the same files change, or what is said of them."""

PARTS = ("pool", "test")
"""What is cached: the pictures from which training and validation are drawn, and the test pictures."""

CIFAR_ROWS, FASHION_ROWS = {"pool": 50_000, "test": 10_000}, {"pool": 60_000, "test": 10_000}
"""Pictures of the official files."""

VALIDATION = 0.1

FASHION = ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST")


@dataclass(frozen=True)
class Origin:
    """Where the pictures come from.

    Attributes:
        identity: All that they depend on.
        pieces: The files or splits that each part is read from.
        read: Reads one of them.
        words: Says what it is; called when it was read.
        files: Names, sha256 and official number of pictures of each part's files; none of the hub's.
        place: Folder of the files. The cache goes by their content and does not know of it: they may lie elsewhere the
            next time.
    """

    identity: Mapping[str, Any]
    pieces: Mapping[str, Sequence[Any]]
    read: Callable[[Any], Pictures]
    words: Callable[[], str]
    files: Mapping[str, tuple[str, Sequence[str], int]] = field(default_factory=dict)
    place: str = ""

    def provenance(self, part: str, rows: int, words: str) -> str:
        """Return what is kept of where a part comes from."""
        if part not in self.files:
            return words
        names, hashes, official = self.files[part]
        return f"{words}; {sources.told(names, rows, official, hashes)}"

    def read_now(self, part: cache.Part) -> cache.Part:
        """Return a part of the cache that says where its files lie now."""
        said = part.provenance
        return replace(part, provenance=f"{said}; read from {self.place}" if self.place else said)


def load_splits(
    config: LRAImageConfig, vocabulary: list[str] | None, progress: Progress | None = None
) -> dict[str, PixelSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the data are nowhere or damaged, or the cache cannot be written.
    """
    origin = find(config)

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        words = origin.words()
        log.info("lra-image: %s%s", words, f", read from {origin.place}" if origin.place else "")
        for name in missing:
            pictures = []
            for done, piece in enumerate(origin.pieces[name], 1):
                pictures.append(origin.read(piece))
                if progress:
                    progress(f"lra-image data: {name}", done, len(origin.pieces[name]))
            whole = cifar.together(pictures)
            yield name, whole.arrays(), origin.provenance(name, len(whole.targets), words)

    parts = cache.obtain(cache.root(config.cache), "lra-image", origin.identity, PARTS, make)
    pool, test = (origin.read_now(parts[name]) for name in PARTS)
    total, tested = len(pool.open("targets")), len(test.open("targets"))
    kept = int(total * (1 - VALIDATION))
    if not 0 < kept < total:
        raise UserError(f"{total} pictures cannot be split into training and validation", "give at least 2")
    seed = config.split_seed if config.split == "random" else None
    return {
        "train": PixelSplit((pool,), Selection(total, 0, kept, seed), vocabulary),
        "validation": PixelSplit((pool,), Selection(total, kept, total, seed), vocabulary),
        "test": PixelSplit((test,), Selection(tested, 0, tested), vocabulary),
    }


def find(config: LRAImageConfig) -> Origin:
    """Find the pictures that a config asks for.

    Raises:
        UserError: If they are nowhere.
    """
    if config.dataset == "fashion-mnist":
        return _fashion(config)
    return _hub(config) if config.source == "hub" else _cifar(config)


def _hub(config: LRAImageConfig) -> Origin:
    revision = config.revision or cifar.REVISION
    return Origin(
        identity={"reader": READER, "hub": cifar.HUB, "revision": revision, "grey": config.grey},
        pieces={"pool": ("train",), "test": ("test",)},
        read=lambda split: cifar.read_hub(revision, split, config.grey),
        words=lambda: (
            f"CIFAR-10, {sources.kind_of(revision, cifar.REVISION)}: hub {cifar.HUB}@{revision}, grey by {config.grey}"
        ),
    )


def _cifar(config: LRAImageConfig) -> Origin:
    looked: list[str] = []
    for name, ending, reader in cifar.forms():
        files = {
            "pool": [f"{file}{ending}" for file in cifar.TRAIN],
            "test": [f"{file}{ending}" for file in cifar.TEST],
        }
        names = (name, f"cifar/{name}", f"cifar10/{name}")
        if folder := sources.find(names, files["pool"] + files["test"], config.root):
            pieces = {part: [folder / file for file in each] for part, each in files.items()}
            return _local(config, folder, pieces, reader, is_python=not ending)
        looked += names
    raise sources.missing(
        "lra-image",
        sources.candidates(looked, config.root),
        files="CIFAR-10 (six files data_batch_1..5 and test_batch, of the Python or the binary version)",
        hub=cifar.HUB,
        stand_in="Fashion-MNIST, from Debian's package dataset-fashion-mnist: "
        "ssm train --backbone s4 --task lra-image --recipe fashion-mnist --set task.root=...",
    )


def _local(
    config: LRAImageConfig, folder: Path, pieces: Mapping[str, list[Path]], reader: Any, is_python: bool
) -> Origin:
    def words() -> str:
        if is_python and cifar.is_official(folder):
            told = "CIFAR-10, official (all six files have the published md5)"
        elif is_python:
            told = "CIFAR-10's layout, but NOT the published files (md5 differ)"
            log.warning("lra-image: the files in %s are not those that were published", folder)
        else:
            told = "CIFAR-10, binary version (no published hashes to compare with)"
        return f"{told}, grey by {config.grey}"

    found = hashes(pieces)
    return Origin(
        identity={"reader": READER, "grey": config.grey, "files": found},
        pieces=pieces,
        read=lambda path: reader(path, config.grey),
        words=words,
        files=_files(pieces, found, CIFAR_ROWS),
        place=str(folder),
    )


def _fashion(config: LRAImageConfig) -> Origin:
    looked = [*sources.candidates(FASHION, config.root), *([] if config.root else [idx.DEBIAN])]
    folder = next((each for each in looked if idx.is_there(each)), None)
    if folder is None:
        raise sources.missing(
            "lra-image",
            looked,
            files="Fashion-MNIST (the four idx files, .gz or unpacked; Debian: apt install dataset-fashion-mnist)",
        )
    pieces = {
        part: [idx.place(folder, name) or folder / name for name in idx.FILES[split]]
        for part, split in (("pool", "train"), ("test", "test"))
    }
    found = hashes(pieces)
    return Origin(
        identity={"reader": READER, "dataset": "fashion-mnist", "files": found},
        pieces={"pool": ("train",), "test": ("test",)},
        read=lambda split: idx.read(folder, split),
        words=lambda: "stand-in, not CIFAR-10: Fashion-MNIST, framed to 32 x 32",
        files=_files(pieces, found, FASHION_ROWS),
        place=str(folder),
    )


def _files(
    pieces: Mapping[str, list[Path]], hashes: Mapping[str, Sequence[str]], official: Mapping[str, int]
) -> dict[str, tuple[str, Sequence[str], int]]:
    return {
        part: (" + ".join(path.name for path in paths), hashes[part], official[part])
        for part, paths in pieces.items()
    }


def hashes(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Return the sha256 of files, so that other content is other data wherever it lies."""
    return {part: [sha256(path) for path in paths] for part, paths in files.items()}
