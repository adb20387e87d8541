"""The splits of the image task, from the cache, which is filled from files or the hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, sources
from ssm_data.lra_image import cifar, idx
from ssm_data.lra_image.cifar import Pictures
from ssm_data.lra_image.spec import LRAImageConfig
from ssm_data.pixels import PixelSplit, Selection

log = logging.getLogger(__name__)

READER = 1
"""Raised when the arrays made from the same files change."""

PARTS = ("pool", "test")
"""What is cached: the pictures from which training and validation are drawn, and the test pictures."""

VALIDATION = 0.1

FASHION = ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST")


@dataclass(frozen=True)
class Origin:
    """Where the pictures come from.

    Attributes:
        identity: All that they depend on.
        pieces: The files or splits that each part is read from.
        read: Reads one of them.
        provenance: Says in words what was read; called when it was.
    """

    identity: Mapping[str, Any]
    pieces: Mapping[str, Sequence[Any]]
    read: Callable[[Any], Pictures]
    provenance: Callable[[], str]


def load_splits(
    config: LRAImageConfig, vocabulary: list[str] | None, progress: Progress | None = None
) -> dict[str, PixelSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the data are nowhere or damaged, or the cache cannot be written.
    """
    origin = find(config)

    def make(missing: list[str]) -> Iterator[tuple[str, Mapping[str, NDArray], str]]:
        provenance = origin.provenance()
        log.info("lra-image: %s", provenance)
        for name in missing:
            pictures = []
            for done, piece in enumerate(origin.pieces[name], 1):
                pictures.append(origin.read(piece))
                if progress:
                    progress(f"lra-image data: {name}", done, len(origin.pieces[name]))
            yield name, cifar.together(pictures).arrays(), provenance

    parts = cache.obtain(cache.root(config.cache), "lra-image", origin.identity, PARTS, make)
    pool, test = parts["pool"], parts["test"]
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
    pinned = "official (the pinned revision)" if revision == cifar.REVISION else "of a revision of your own"
    return Origin(
        identity={"reader": READER, "hub": cifar.HUB, "revision": revision, "grey": config.grey},
        pieces={"pool": ("train",), "test": ("test",)},
        read=lambda split: cifar.read_hub(revision, split, config.grey),
        provenance=lambda: f"CIFAR-10, {pinned}: hub {cifar.HUB}@{revision}, grey by {config.grey}",
    )


def _cifar(config: LRAImageConfig) -> Origin:
    for name, ending, reader in cifar.forms():
        files = {
            "pool": [f"{file}{ending}" for file in cifar.TRAIN],
            "test": [f"{file}{ending}" for file in cifar.TEST],
        }
        folder = sources.find(
            (name, f"cifar/{name}", f"cifar10/{name}"), files["pool"] + files["test"], config.root
        )
        if folder:
            pieces = {part: [folder / file for file in names] for part, names in files.items()}
            return _local(config, folder, pieces, reader, is_python=not ending)
    folders = [name for name, _, _ in cifar.forms()]
    raise sources.missing(
        "lra-image",
        sources.candidates(folders, config.root),
        files="CIFAR-10 (six files data_batch_1..5 and test_batch, of the Python or the binary version)",
        hub=cifar.HUB,
        instead="--set task.dataset=fashion-mnist, from Debian's package dataset-fashion-mnist",
    )


def _local(
    config: LRAImageConfig, folder: Path, pieces: Mapping[str, list[Path]], reader: Any, is_python: bool
) -> Origin:
    def provenance() -> str:
        if is_python and cifar.is_official(folder):
            told = "CIFAR-10, official (all six files have the published md5)"
        elif is_python:
            told = "CIFAR-10's layout, but NOT the published files (md5 differ)"
            log.warning("lra-image: the files in %s are not those that were published", folder)
        else:
            told = "CIFAR-10, binary version (no published hashes to compare with)"
        return f"{told}: {folder}, grey by {config.grey}"

    return Origin(
        identity={"reader": READER, "grey": config.grey, "files": hashes(pieces)},
        pieces=pieces,
        read=lambda path: reader(path, config.grey),
        provenance=provenance,
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
    found = {
        part: [idx.place(folder, name) or folder / name for name in idx.FILES[split]]
        for part, split in (("pool", "train"), ("test", "test"))
    }
    told = f"stand-in, not CIFAR-10: Fashion-MNIST from {folder}, framed to 32 x 32"
    return Origin(
        identity={"reader": READER, "dataset": "fashion-mnist", "files": hashes(found)},
        pieces={"pool": ("train",), "test": ("test",)},
        read=lambda split: idx.read(folder, split),
        provenance=lambda: told,
    )


def hashes(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Return the sha256 of files, so that other content is other data wherever it lies."""
    found: dict[str, list[str]] = {}
    for part, paths in files.items():
        found[part] = []
        for path in paths:
            with path.open("rb") as file:
                found[part].append(hashlib.file_digest(file, "sha256").hexdigest())
    return found
