"""Text as a stream of blocks: read from files of any size, cut into documents, dealt to splits; never held whole."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_data.lm.tokenizer import between_characters

BLOCK = 1 << 20
"""Bytes read at once."""

NEAR = 0.25
"""How far a cut between splits may go on to the end of a line, in shares of the smaller held-out split."""

BOUNDARY = re.compile(rb"(?<=\n\n)(?!\n)")
"""Where a document begins after blank lines."""


class Block(NamedTuple):
    """A part of a document.

    Attributes:
        text: Its bytes.
        begins: Whether the document begins with it.
    """

    text: bytes
    begins: bool


class Dealt(NamedTuple):
    """A part of a document with the split that it goes to."""

    split: str
    text: bytes
    begins: bool


def find_files(path: Path, patterns: str, task: str) -> list[Path]:
    """Return a text file, or those in a folder and the folders in it, sorted.

    Args:
        path: A file or a folder.
        patterns: Which files of a folder, such as ``"*.txt,*.md"``; hidden ones are left out.
        task: Name of the task, for messages.

    Raises:
        UserError: If there is nothing of the kind.
    """
    path = path.expanduser().absolute()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{task}: there is no file or folder {path}", "--set task.path=...")
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    found = {
        file
        for pattern in wanted
        for file in path.rglob(pattern)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    }
    if not found:
        raise UserError(
            f"{task}: the folder {path} has no file that matches {patterns}", "--set task.pattern=..."
        )
    return sorted(found)


def read_blocks(file: Path) -> Iterator[bytes]:
    """Yield a file's bytes block by block; a name ending in .gz is unpacked.

    Raises:
        UserError: If it cannot be read, or is a gzip file that is damaged or cut off.
    """
    done = 0
    try:
        with opened(file) as stream:
            while block := stream.read(BLOCK):
                done += len(block)
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"{file} is cut off or damaged after {done} bytes of text: {error}"
        raise UserError(reason, "fetch it again, or unpack it to see what is left") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def opened(file: Path) -> BufferedReader | gzip.GzipFile:
    """Open a file for reading its bytes; a name ending in .gz is unpacked."""
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    return file.open("rb")


def whole_files(files: Iterable[Path]) -> Iterator[Block]:
    """Yield files, each a document."""
    for file in files:
        begins = True
        for text in read_blocks(file):
            yield Block(text, begins)
            begins = False


def between_blank_lines(files: Iterable[Path]) -> Iterator[Block]:
    """Yield files, a new document after each run of blank lines; the newlines stay with what they follow."""
    for file in files:
        begins, held = True, b""
        for block in read_blocks(file):
            text = held + block
            # Newlines at the end wait: what follows them tells whether a document begins.
            body = text.rstrip(b"\n") if len(held) < BLOCK else text
            held = text[len(body) :]
            for part in filter(None, BOUNDARY.split(body)):
                yield Block(part, begins)
                begins = True
            begins = begins and not body
        if held:
            yield Block(held, begins)


def deal_documents(blocks: Iterable[Block], validation: float, test: float, seed: int = 0) -> Iterator[Dealt]:
    """Deal whole documents out at even distances: with test = 0.1, every tenth is for testing.

    Args:
        blocks: The documents.
        validation: Share of the documents for validation.
        test: Share of them for testing.
        seed: Where the counting begins.
    """
    start = np.random.default_rng(seed).random(2)
    split, seen, rest = "train", 0, 0
    for text, begins in blocks:
        if begins:
            if _falls(seen, test, start[0]):
                split = "test"
            else:
                split = "validation" if _falls(rest, validation / (1 - test), start[1]) else "train"
                rest += 1
            seen += 1
        yield Dealt(split, text, begins)


def _falls(index: int, share: float, start: float) -> bool:
    # The small number keeps binary fractions such as 10 * 0.1 from losing the last document.
    return math.floor((index + 1) * share + start + 1e-9) > math.floor(index * share + start + 1e-9)


def deal_positions(blocks: Iterable[Block], total: int, validation: float, test: float) -> Iterator[Dealt]:
    """Deal by place: first what is for training, then validation, then test; cut after a newline where one is near.

    Near is a quarter of the smaller share: in a text of few or no lines the next newline may be the text's last byte,
    and a cut there would leave a split empty.

    Args:
        blocks: The documents.
        total: Bytes in all.
        validation: Share of the bytes for validation.
        test: Share of them for testing.
    """
    ends = [("train", round(total * (1 - validation - test))), ("validation", round(total * (1 - test)))]
    ends.append(("test", total))
    place, near = 0, round(total * min(validation, test) * NEAR)
    for text, begins in blocks:
        while text:
            while len(ends) > 1 and place >= ends[0][1]:
                ends.pop(0)
                begins = True  # each split begins a document of its own
            split, end = ends[0]
            last = place + len(text) <= end or len(ends) == 1
            cut = len(text) if last else _line_end(text, end - place, near)
            if cut:
                yield Dealt(split, text[:cut], begins)
            place, text, begins = place + cut, text[cut:], not last
            if not last:  # also where the cut lies before the end: it goes between characters, not into one
                ends.pop(0)


def _line_end(text: bytes, place: int, near: int) -> int:
    newline = text.find(b"\n", place - 1, place + near)
    return newline + 1 if newline >= 0 else between_characters(text, place)
