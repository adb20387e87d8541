"""One line of millions of words: each reader of lines reads it, or says where it stands, and stays small."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError

SMALL, LONG = 200_000, 10_000_000

Made = tuple[str, dict[str, Any]]


def ts(row: Callable[[int], str], stamps: bool = False) -> Callable[[Path, int], Made]:
    def write(root: Path, n: int) -> Made:
        good = "(0,1),(1,2):(0,1),(1,2):" if stamps else "1,2:3,4:"
        rows = [good + ("up", "down")[i % 2] for i in range(8)]
        head = f"@timeStamps {str(stamps).lower()}\n@dimensions 2\n@classLabel true up down\n@data\n"
        (root / "Mine").mkdir()
        for part, more in (("TRAIN", []), ("TEST", [row(n)])):
            (root / "Mine" / f"Mine_{part}.ts").write_text(head + "\n".join([*rows, *more]) + "\n")
        return "ts", {"root": str(root), "dataset": "Mine"}

    return write


def table(row: Callable[[int], str], head: str = "id,time,value,target") -> Callable[[Path, int], Made]:
    def write(root: Path, n: int) -> Made:
        rows = [f"s{i // 5},{i},{i},{i}" for i in range(50)]
        (root / "t.csv").write_text("\n".join([head, *rows[:10], row(n), *rows[10:]]) + "\n")
        return "irregular-csv", {"path": str(root / "t.csv")}

    return write


def text(body: Callable[[int], str], **given: Any) -> Callable[[Path, int], Made]:
    def write(root: Path, n: int) -> Made:
        (root / "book.txt").write_text(body(n))
        return "text-lm", {"path": str(root / "book.txt"), **given}

    return write


def wiki(body: Callable[[int], str], level: str) -> Callable[[Path, int], Made]:
    def write(root: Path, n: int) -> Made:
        (root / "wikitext-103").mkdir()
        for part in ("train", "valid", "test"):
            more = body(n) if part == "train" else ""
            article = " \n = Cat = \n \n A cat of it . \n" * 3
            (root / "wikitext-103" / f"wiki.{part}.tokens").write_text(article + more)
        return "wikitext103", {"root": str(root), "level": level}

    return write


def review(body: Callable[[int], str], level: str) -> Callable[[Path, int], Made]:
    def write(root: Path, n: int) -> Made:
        for part in ("train", "test"):
            for group in ("neg", "pos"):
                folder = root / "aclImdb" / part / group
                folder.mkdir(parents=True)
                for i in range(2):
                    (folder / f"{i}_5.txt").write_text(body(n) if (group, i) == ("pos", 1) else "short")
        return "lra-text", {"root": str(root), "source": "local", "level": level}

    return write


READ: dict[str, Callable[[Path, int], Made]] = {
    "ts values": ts(lambda n: f"{'1,' * (n - 1)}1:{'2,' * (n - 1)}2:up"),
    "ts missing": ts(lambda n: f"{'1,?,' * (n // 2)}1:{'2,nan,' * 99}{'2,' * (n - n % 2 - 198)}2:up"),
    "ts stamps": ts(lambda n: ",".join(f"({i},{i % 7})" for i in range(n)) + ":(0,1):up", stamps=True),
    "text-lm byte": text(lambda n: "ab cde " * (n // 2)),
    "text-lm bpe": text(lambda n: "ab cde " * (n // 2), level="bpe", vocab_size=300),
    "text-lm one word": text(lambda n: "a" * n, level="bpe", vocab_size=300),
    "wikitext103 words": wiki(lambda n: "a b " * (n // 2), "word"),
    "wikitext103 heading": wiki(lambda n: " = " + "a b " * (n // 2) + " = \n", "word"),
    "lra-text bytes": review(lambda n: "a b " * (n // 2), "byte"),
    "lra-text characters": review(lambda n: "a b " * (n // 2), "char"),
}

TOLD: dict[str, tuple[Callable[[Path, int], Made], str]] = {
    "ts word": (
        ts(lambda n: f"{'1,' * (n - 1)}x:2:up"),
        r"_TEST\.ts, line 13: value {n} of channel 1 is 'x'",
    ),
    "ts channels": (ts(lambda n: "1:" * n + "up"), r"_TEST\.ts, line 13: {n} channels and a label"),
    "ts label": (ts(lambda n: "1,2:3,4:" + "u" * n), r"_TEST\.ts, line 13: the label 'u{{40}}'"),
    "ts colons": (ts(lambda n: ":" * n + "up", stamps=True), r"_TEST\.ts, line 13: {n} channels"),
    "ts brackets": (
        ts(lambda n: "(" * n + ":(0,1):up", stamps=True),
        r"_TEST\.ts, line 13: channel 1 is not",
    ),
    "csv columns": (table(lambda n: "1," * n), r"t\.csv, line 12: (\d+ columns, not 4|a line of more than)"),
    "csv cell": (table(lambda n: "s,1,2," + "4" * n), r"t\.csv, line 12: .*field larger than"),
    "csv head": (
        table(lambda n: "", head="id,time,target," + "v," * 200_000),
        r"t\.csv, line 1: the column .* is named twice",
    ),
}


def busy(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of the processor's time that a call takes, and the megabytes that it adds at most."""
    with contextlib.suppress(OSError):  # Linux forgets the largest size so far
        Path("/proc/self/clear_refs").write_text("5")
    before, began = size("VmRSS"), time.process_time()
    call()
    return time.process_time() - began, size("VmHWM") - before


def size(field: str) -> float:
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


@pytest.mark.parametrize("n", [SMALL, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", READ)
def test_a_long_line_is_read(tmp_path: Path, case: str, n: int) -> None:
    (tmp_path / "in").mkdir()
    task, given = READ[case](tmp_path / "in", n)
    read = registry.build_task(task, {**given, "cache": str(tmp_path / "cache")})
    seconds, megabytes = busy(read.splits)
    largest = max(array.size for split in read.splits().values() for array in split.arrays.values())
    if task != "lra-text":  # where what is long is cut
        assert largest >= n / 20  # a piece holds up to 16 characters
    assert seconds < 5 + n / 2e5
    assert megabytes < 200 + n / 5e3


@pytest.mark.parametrize("n", [SMALL, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", TOLD)
def test_a_long_line_that_is_wrong_is_named(tmp_path: Path, case: str, n: int) -> None:
    (tmp_path / "in").mkdir()
    write, message = TOLD[case]
    task, given = write(tmp_path / "in", n)
    read = registry.build_task(task, {**given, "cache": str(tmp_path / "cache")})

    def fails() -> None:
        with pytest.raises(UserError, match=message.format(n=n)) as caught:
            read.splits()
        assert str(tmp_path / "in") in str(caught.value)
        assert len(str(caught.value)) < 500 + len(str(tmp_path))

    seconds, megabytes = busy(fails)
    assert seconds < 5 + n / 2e5
    assert megabytes < 200 + n / 5e3
    assert not list((tmp_path / "cache").rglob("*.npy"))
