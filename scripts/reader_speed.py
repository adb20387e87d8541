"""How fast files are read for the first time, and batches made of the cache: the tables of docs/results/real-data.md.

uv run python scripts/reader_speed.py            of files that it makes in a temporary folder, 40 MB
uv run python scripts/reader_speed.py FOLDER     of FOLDER/JapaneseVowels too (see docs/how-to/real-data.md)

Processor time, the best of two readings and of five rounds of batches; whatever else the machine does makes it longer.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssm_data.loading import build

SERIES, ELEMENTS = 200, 1000
LONG, CHANNELS, STEPS = 12, 6, 18_000
WORDS, CLIPS = 35, 20


class Subject(NamedTuple):
    """What is read: the task, its knobs, the file or folder, how many rows make a batch, and all this in words."""

    task: str
    knobs: Mapping[str, Any]
    files: Path
    batch: int
    words: str
    pattern: str = ""
    """Which files of a folder are read."""


def table(folder: Path) -> Subject:
    """Return a table of irregular series."""
    rng = np.random.default_rng(0)
    lines = ["id,time,first,second,target"]
    for series in range(SERIES):
        times = np.cumsum(rng.uniform(0.5, 1.5, ELEMENTS))
        values = rng.normal(size=(ELEMENTS, 3))
        numbers = zip(times, values, strict=True)
        lines += [f"{series},{at:.3f},{a:.5f},{b:.5f},{c:.5f}" for at, (a, b, c) in numbers]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = f"{SERIES * ELEMENTS:,} rows of 5 columns; 32 series of {ELEMENTS}, with gaps"
    return Subject("irregular-csv", {"path": path}, path, 32, words)


def long_series(folder: Path) -> Subject:
    """Return few series of many steps in the archives' format."""
    rng, path = np.random.default_rng(0), folder / "Long"
    path.mkdir()
    head = "@problemName Long\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"
    for split, count in (("TRAIN", LONG - 2), ("TEST", 2)):
        with (path / f"Long_{split}.ts").open("w", encoding="utf-8") as file:
            file.write(head)
            for series in range(count):
                for channel in rng.normal(size=(CHANNELS, STEPS)):
                    file.write(",".join(f"{value:.5f}" for value in channel) + ":")
                file.write("ab"[series % 2] + "\n")
    words = f"{LONG} series of {CHANNELS} channels and {STEPS:,} steps; 5 of them"
    return Subject("ts", {"root": folder, "dataset": "Long"}, path, 5, words, "Long_T*.ts")


def clips(folder: Path) -> Subject:
    """Return clips of a second of noise, in folders named by their words, with the lists of what is held out."""
    rng, root = np.random.default_rng(0), folder / "speech_commands_v0.02"
    lists: dict[int, list[str]] = {CLIPS - 2: [], CLIPS - 1: []}
    for word in (f"word{number}" for number in range(WORDS)):
        (root / word).mkdir(parents=True)
        for clip in range(CLIPS):
            name = f"{word}/{clip:08x}_nohash_0.wav"
            with wave.open(str(root / name), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes(rng.normal(0, 3000, 16_000).astype("<i2").tobytes())
            lists.get(clip, []).append(name)
    for name, held in zip(("validation", "testing"), lists.values(), strict=True):
        (root / f"{name}_list.txt").write_text("\n".join(held) + "\n", encoding="utf-8")
    words = f"{WORDS * CLIPS} clips of a second; 16 of them"
    return Subject("speech-commands", {"root": folder}, root, 16, words, "*.wav")


def spent(work: Callable[[], Any]) -> float:
    """Return the seconds of processor time that work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def row(subject: Subject, folder: Path) -> str:
    """Return the row of the table: first reading, opening from the cache, batches."""
    read_files = [subject.files] if subject.files.is_file() else subject.files.rglob(subject.pattern)
    size = sum(file.stat().st_size for file in read_files) / 1e6
    caches = [folder / f"cache{number}-{subject.task}-{subject.files.name}" for number in range(2)]
    knobs = dict(subject.knobs)
    read = min(spent(lambda c=c: build(subject.task, knobs | {"cache": c}).splits()) for c in caches)
    knobs["cache"] = caches[0]
    opened = min(spent(lambda: build(subject.task, knobs).splits()) for _ in range(3))
    task = build(subject.task, knobs)
    train = task.splits()["train"]
    chosen = [i % len(train) for i in range(subject.batch)]
    rounds = 20
    batches = min(
        spent(lambda: [task.collate([train[i] for i in chosen]) for _ in range(rounds)]) / rounds
        for _ in range(5)
    )
    cells = f"{size:.1f} MB | {read:.2f} s | {size / read:.1f} MB/s | {1e3 * opened:.0f} ms | {1e3 * batches:.2f} ms"
    return f"| `{subject.task}`: {subject.words} | {cells} |"


def main(archive: Path | None) -> None:
    """Print the table."""
    logging.disable()
    print(
        "| what | size | first reading | | opening again | a batch |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subjects = [make(folder) for make in (table, long_series, clips)]
        if archive is not None:
            words = "JapaneseVowels, 640 short series; 32 of them"
            files = archive / "JapaneseVowels"
            subjects.append(Subject("ts", {"root": archive}, files, 32, words, f"{files.name}_T*.ts"))
        for subject in subjects:
            print(row(subject, folder), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
