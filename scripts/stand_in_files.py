"""Writes files in the layouts of official data sets, full of noise: to time their readers and loaders without them.

uv run python scripts/stand_in_files.py FOLDER

Rows have the shapes of the official ones, and there are fewer of them. Nothing can be learned from any.
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

SPOKEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def words(rng: np.random.Generator, number: int) -> list[str]:
    """Return made-up words, each once."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return ["".join(row) for row in np.unique(letters[rng.integers(0, 26, (number, 5))], axis=0)]


def pictures(root: Path, rng: np.random.Generator) -> None:
    """CIFAR-10: 3073 bytes a picture."""
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (2000, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(2000) % 10
        write(root / "cifar-10-batches-bin" / f"{name}.bin", rows.tobytes())


def reviews(root: Path, rng: np.random.Generator) -> None:
    """Film reviews of some 1300 characters, a file each."""
    known = words(rng, 5000)
    for part in ("train", "test"):
        for label, score in (("neg", 2), ("pos", 9)):
            for i in range(1000):
                text = " ".join(known[k] for k in rng.integers(0, len(known), 220))
                write(root / "aclImdb" / part / label / f"{i}_{score}.txt", text.encode())


def papers(root: Path, rng: np.random.Generator) -> None:
    """Pairs of papers of some 4000 characters."""
    known = words(rng, 5000)

    def paper() -> str:
        return " ".join(known[k] for k in rng.integers(0, len(known), 670))

    for name, number in (("train", 2000), ("eval", 200), ("test", 200)):
        rows = (f"{i % 2:.1f}\t{2 * i}\t{2 * i + 1}\t{paper()}\t{paper()}\n" for i in range(number))
        write(root / "lra_release" / "tsv_data" / f"new_aan_pairs.{name}.tsv", "".join(rows).encode())


def clips(root: Path, rng: np.random.Generator) -> None:
    """A second of noise at 16 kHz, forty of each spoken word."""
    folder = root / "speech_commands_v0.02"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in SPOKEN:
        for i in range(40):
            name = f"{word}/{i:08x}_nohash_0.wav"
            (folder / word).mkdir(parents=True, exist_ok=True)
            with wave.open(str(folder / name), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes(rng.integers(-8000, 8000, 16_000).astype("<i2").tobytes())
            if i >= 32:
                lists["validation_list.txt" if i < 36 else "testing_list.txt"].append(name)
    for name, listed in lists.items():
        write(folder / name, "\n".join(listed).encode())


def articles(root: Path, rng: np.random.Generator) -> None:
    """Articles of 500 words out of a large vocabulary."""
    known = np.array(words(rng, 80_000))
    for name, number in (("train", 1600), ("valid", 20), ("test", 20)):
        # Every word occurs in the training text.
        drawn = np.concatenate([rng.permutation(len(known)), rng.integers(0, len(known), 500 * number)])
        parts = [
            f" = Article {i} = \n \n {' '.join(known[drawn[500 * i : 500 * i + 500]])} \n \n"
            for i in range(number)
        ]
        write(root / "wikitext-103" / f"wiki.{name}.tokens", (" \n" + "".join(parts)).encode())


def vowels(root: Path, rng: np.random.Generator) -> None:
    """JapaneseVowels: twelve channels, 7 to 29 steps, nine classes."""
    head = "@problemName JapaneseVowels\n@timeStamps false\n@univariate false\n@dimensions 12\n@equalLength false\n"
    head += f"@classLabel true {' '.join(map(str, range(1, 10)))}\n@data\n"
    for part in ("TRAIN", "TEST"):
        rows = []
        for i in range(300):
            values = rng.normal(size=(12, rng.integers(7, 30)))
            rows.append(
                ":".join(",".join(f"{x:.6f}" for x in channel) for channel in values) + f":{i % 9 + 1}\n"
            )
        write(root / "JapaneseVowels" / f"JapaneseVowels_{part}.ts", (head + "".join(rows)).encode())


def table(root: Path, rng: np.random.Generator) -> None:
    """Series of some 280 elements, five minutes apart with holes, and the settings that read it."""
    lines = ["id,time,value,target\n"]
    for i in range(300):
        times = 300 * np.flatnonzero(rng.random(350) < 0.8)
        lines += [
            f"{i},{t},{v:.2f},{v + w:.2f}\n"
            for t, (v, w) in zip(times, rng.normal(size=(len(times), 2)), strict=True)
        ]
    write(root / "series.csv", "".join(lines).encode())
    settings = f'[task]\nname = "irregular-csv"\npath = "{root / "series.csv"}"\n'
    write(root / "irregular-csv.toml", settings.encode())


def write(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


SETS: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    pictures,
    reviews,
    papers,
    clips,
    articles,
    vowels,
    table,
)

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for make in SETS:
        make(Path(sys.argv[1]), np.random.default_rng(0))
        print(f"wrote {make.__name__}")
