"""The head of a ``.ts`` file: lines that begin with @ and say what the rows below are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssm_core.plugin.errors import UserError

LONGEST = 1 << 28
"""Bytes of the longest line that is read: a file without line ends would else fill the memory."""

BOOLEANS = ("@timestamps", "@missing", "@univariate", "@equallength", "@classlabel", "@targetlabel")
NUMBERS = ("@dimension", "@dimensions", "@serieslength")
MATTERING = {*BOOLEANS, *NUMBERS}
"""Tags that are read; all others are for people."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the head says.

    Attributes:
        timestamps: Every value stands in brackets with its time.
        channels: Number of channels; None if it is not said.
        length: Length of every series; None if they are not equal, or it is not said.
        classes: Names of the classes; empty if rows have none.
        values: Rows end with a number that is asked for.
    """

    timestamps: bool = False
    channels: int | None = None
    length: int | None = None
    classes: tuple[str, ...] = ()
    values: bool = False


def wrong(path: Path, line: int, what: str) -> UserError:
    """Return the error for a bad line, counted from 1; 0 is the file as a whole."""
    where = f"line {line}" if line else "the file as a whole"
    return UserError(f"{path}, {where}: {what}", "mend the file or fetch it again; nothing of it was kept")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of the lines that are neither empty nor comments.

    Raises:
        UserError: If the file cannot be read, is not UTF-8, or a line is too long.
    """
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise wrong(path, number, f"a line of more than {LONGEST} bytes")
                # Some files of the archives begin with a byte order mark, and some comments are Latin-1.
                text = line.strip().removeprefix(b"\xef\xbb\xbf")
                if text and not text.startswith((b"#", b"%")):
                    yield number, text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise wrong(
            path, number, f"byte {error.start + 1} of the line is not UTF-8 ({error.reason})"
        ) from None
    except OSError as error:
        raise wrong(path, number, f"it cannot be read ({error.strerror or error})") from error


def read_header(path: Path, numbered: Iterator[tuple[int, str]], asks: bool = True) -> Header:
    """Read the lines up to ``@data``.

    Args:
        path: The file, for messages.
        numbered: Its lines; what follows ``@data`` is left in it.
        asks: Whether rows have to have labels.

    Raises:
        UserError: If the head does not end, says something twice, or what it says makes no sense.
    """
    said: dict[str, list[str]] = {}
    number = 0
    for number, text in numbered:
        tag, *words = text.split()
        tag = tag.lower()
        if tag == "@data":
            return _header(path, said, asks)
        if not tag.startswith("@"):
            raise wrong(
                path, number, f"the head has not ended with @data, and this line has no @: {text[:40]!r}"
            )
        if said.get(tag, words) != words and tag in MATTERING:
            raise wrong(path, number, f"{tag} is said twice, and not the same")
        said[tag] = words
        _check(path, number, tag, words)
    raise wrong(path, number, "the head does not end with @data" if number else "the file is empty")


def _check(path: Path, number: int, tag: str, words: list[str]) -> None:
    word = words[0].lower() if words else ""
    if tag in BOOLEANS and word not in ("true", "false"):
        raise wrong(path, number, f"{tag} is true or false, not {word!r}")
    if tag in NUMBERS and not (word.isdecimal() and int(word) > 0):
        raise wrong(path, number, f"{tag} is a number above 0, not {word!r}")
    if tag == "@classlabel" and word == "true" and (len(words) < 3 or len(set(words[1:])) < len(words) - 1):
        raise wrong(path, number, "@classLabel true needs the names of two classes or more, each once")


def _header(path: Path, said: dict[str, list[str]], asks: bool) -> Header:
    def true(tag: str) -> bool:
        return said.get(tag, ["false"])[0].lower() == "true"

    if true("@classlabel") == true("@targetlabel") and (asks or true("@classlabel")):
        raise wrong(path, 0, "its head has to say one of '@classLabel true NAMES' and '@targetLabel true'")
    given = next((said[tag] for tag in ("@dimensions", "@dimension") if tag in said), None)
    equal = true("@equallength") and "@serieslength" in said
    return Header(
        timestamps=true("@timestamps"),
        channels=1 if true("@univariate") else int(given[0]) if given else None,
        length=int(said["@serieslength"][0]) if equal else None,
        classes=tuple(said["@classlabel"][1:]) if true("@classlabel") else (),
        values=true("@targetlabel"),
    )
