"""Tasks that read files tell models apart: on three seeds, one that should solve a task does, one that cannot does not.

The files are made up here, in the layouts of the official data sets (but the help texts, which come with Python). What
is shown is that a task, its reader, its recipe (a smaller model, fewer steps) and a backbone work together, not what a
model reaches on the real data. The answer is in the order of elements or in the gaps between them, never in which
elements there are, so that a bag of elements can but guess.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ssm_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Trained = Callable[..., list[float]]

BAG = {"window": 1, "positions": "none"}
"""Knobs with which a Transformer attends to the element itself alone: a bag of elements; of text, pairs of tokens."""


def small(
    steps: int, *, width: int = 32, layers: int = 2, batch_size: int = 32, **backbone: Any
) -> dict[str, Any]:
    """Return settings laid over a recipe; validation, on which no step depends, is at the end alone."""
    return {
        "backbone": backbone,
        "model": {"d_model": width, "n_layers": layers, "dropout": 0.0},
        "train": {"steps": steps, "batch_size": batch_size, "eval_every": 1000, "threads": 1},
    }


# Reviews: the same two words in each, one before the other.

OTHERS = ("a", "film", "of", "two", "sons", "in", "town", "by", "the", "sea")


def write_reviews(root: Path) -> None:
    """Write reviews that are good if they go from "bad" to "joy", and bad if they go from "joy" to "bad"."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 900), ("test", 300)):
        for i in range(number):
            label = i % 2
            words = rng.choice(OTHERS, 6).tolist()
            first, second = np.sort(rng.integers(0, 7, 2))
            marks = ("bad", "joy") if label else ("joy", "bad")
            words.insert(second, marks[1])
            words.insert(first, marks[0])
            file = root / "aclImdb" / part / ("neg", "pos")[label] / f"{i}_{(2, 9)[label]}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(" ".join(words), encoding="utf-8")


def test_reviews_whose_words_are_the_same(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of two classes, 0.5, which is the best that counting words allows."""
    write_reviews(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path)}
    ordered = trained("lra-text", "s5", settings=small(200), **knobs)
    bag = trained("lra-text", "transformer", settings=small(200, **BAG), **knobs)
    assert min(ordered) > 0.9, ordered
    assert max(bag) < 0.5 + 0.12, bag


# Pairs of papers: both hold the same letters; they belong together if the same letter follows the mark.


def paper(letter: str, rng: np.random.Generator) -> str:
    """Return the four letters in any order, a mark before the one that is given."""
    text = "".join(rng.permutation(list("abcd")))
    return text.replace(letter, "#" + letter)


def write_pairs(root: Path) -> None:
    rng = np.random.default_rng(0)
    folder = root / "lra_release" / "tsv_data"
    folder.mkdir(parents=True)
    for name, number in (("train", 2000), ("eval", 200), ("test", 400)):
        rows = []
        for i in range(number):
            label = i % 2
            first, second = rng.choice(list("abcd"), 2, replace=False)
            second = first if label else second
            rows.append(f"{label:.1f}\t{2 * i}\t{2 * i + 1}\t{paper(first, rng)}\t{paper(second, rng)}\n")
        (folder / f"new_aan_pairs.{name}.tsv").write_text("".join(rows), encoding="utf-8")


def test_pairs_that_share_what_is_marked(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of two classes, 0.5: all papers hold the same letters."""
    write_pairs(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path)}
    ordered = trained("lra-retrieval", "mamba2", settings=small(250), **knobs)
    bag = trained("lra-retrieval", "transformer", settings=small(250, **BAG), **knobs)
    assert min(ordered) > 0.9, ordered
    assert max(bag) < 0.5 + 0.12, bag


# Pictures: any grey values, sorted along a wave whose number of crests in a row is the class.


def picture(label: int, rng: np.random.Generator) -> np.ndarray:
    """Return a grey picture (1024,): values drawn without regard to the class, and laid where the class says."""
    wave_of_class = np.sin(2 * np.pi * ((label + 1) * np.arange(1024) / 32 + rng.random()))
    places = np.argsort(wave_of_class + rng.normal(0, 0.5, 1024))
    grey = np.empty(1024, np.uint8)
    grey[places] = np.sort(rng.integers(0, 256, 1024))
    return grey


def write_pictures(root: Path) -> None:
    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        labels = np.arange(100) % 10
        rows = [np.concatenate([[label], np.tile(picture(label, rng), 3)]) for label in labels]
        (folder / f"{name}.bin").write_bytes(np.stack(rows).astype(np.uint8).tobytes())


def test_pictures_whose_grey_values_are_the_same(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of ten classes, 0.1; grey values are drawn without regard to the class."""
    write_pictures(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path)}
    ordered = trained("lra-image", "s4d", settings=small(150, layers=1, batch_size=20), **knobs)
    bag = trained("lra-image", "transformer", settings=small(150, layers=1, batch_size=20, **BAG), **knobs)
    assert min(ordered) > 0.8, ordered
    assert max(bag) < 0.1 + 0.12, bag


# Pathfinder: two discs in a row, joined by a dashed line, or the same line elsewhere. No other line is there.


def joined(label: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (side, side): label 1 has the line in the row of the discs, 0 has it 4 rows away or more."""
    pixels = np.zeros((side, side), np.uint8)
    row, left = rng.integers(6, side - 6), rng.integers(1, side // 4)
    right = rng.integers(side - side // 4 - 3, side - 3)
    far = [other for other in range(1, side - 1) if abs(other - row) >= 4]
    line = row if label else rng.choice(far)
    for disc in (left, right):
        pixels[row - 1 : row + 2, disc : disc + 3] = 255
    between = np.arange(left + 3, right)
    pixels[line, between[between % 3 > 0]] = 200
    return pixels


def write_discs(root: Path, side: int, number: int) -> None:
    rng = np.random.default_rng(0)
    folder = root / f"pathfinder{side}" / "curv_baseline"
    for part in ("metadata", "imgs/0"):
        (folder / part).mkdir(parents=True)
    rows = []
    for i in range(number):
        Image.fromarray(joined(i % 2, side, rng)).save(folder / "imgs" / "0" / f"sample_{i}.png")
        rows.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.0 6 1 1 1.0 0 0\n")
    (folder / "metadata" / "0.npy").write_text("".join(rows), encoding="utf-8")


DISCS: dict[str, Any] = {"source": "local", "contour_length": 6, "expected_rows": 0, "pooling": "max"}
# Recipes on made pictures set these; files have the sizes that they have.
DISCS |= {"n_train": 160_000, "n_validation": 20_000, "n_test": 20_000}


def test_discs_that_a_line_joins(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of two classes, 0.5; their pixels are the same. True curves are not learned so fast."""
    write_discs(tmp_path, 32, 2000)
    run, knobs = {"layers": 1, "batch_size": 20}, {**DISCS, "root": str(tmp_path), "resolution": 32}
    ordered = trained("lra-pathfinder", "s4d", name="small", settings=small(150, **run), **knobs)
    bag = trained("lra-pathfinder", "transformer", name="small", settings=small(150, **run, **BAG), **knobs)
    assert min(ordered) > 0.9, ordered
    assert max(bag) < 0.5 + 0.12, bag


def test_discs_that_a_line_joins_in_sixteen_thousand_pixels(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of two classes, 0.5."""
    write_discs(tmp_path, 128, 1500)
    run: dict[str, Any] = {"width": 16, "layers": 1, "batch_size": 8}
    rate, knobs = {"optim": {"lr": 0.01}}, {**DISCS, "root": str(tmp_path)}
    ordered = trained("lra-pathx", "s4d", settings=small(180, **run) | rate, **knobs)
    bag = trained("lra-pathx", "transformer", settings=small(180, **run, **BAG) | rate, **knobs)
    assert min(ordered) > 0.9, ordered
    assert max(bag) < 0.5 + 0.12, bag


# Clips: two tones of seven, one after the other; the word says which two and in which order.

TONES = np.linspace(0.2, 1.4, 7)
"""Radians a sample."""

PAIRS = [(a, b) for a in range(7) for b in range(7) if a != b][:35]

HALF = 60
"""Samples of a tone; a clip lasts 7.5 ms."""


def clip(word: int, rng: np.random.Generator) -> np.ndarray:
    """Return samples (2 * HALF,) of the word's two tones, each of any phase, with noise."""
    tones = [np.sin(TONES[tone] * np.arange(HALF) + 2 * np.pi * rng.random()) for tone in PAIRS[word]]
    return (8000 * (np.concatenate(tones) + rng.normal(0, 0.1, 2 * HALF))).astype("<i2")


def write_clips(root: Path) -> None:
    rng = np.random.default_rng(0)
    folder = root / "speech_commands_v0.02"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in range(35):
        (folder / f"word{word:02d}").mkdir(parents=True)
        for i in range(30):
            name = f"word{word:02d}/{i:08x}_nohash_0.wav"
            with wave.open(str(folder / name), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes(clip(word, rng).tobytes())
            if i >= 22:
                lists["validation_list.txt" if i < 24 else "testing_list.txt"].append(name)
    for name, listed in lists.items():
        (folder / name).write_text("\n".join(listed), encoding="utf-8")


def without_order() -> float:
    """Return the accuracy of who hears which tones there are, but not which is first."""
    known = {frozenset(pair): sum(set(other) == set(pair) for other in PAIRS) for pair in PAIRS}
    return float(np.mean([1 / known[frozenset(pair)] for pair in PAIRS]))


def test_clips_whose_tones_come_in_another_order(trained: Trained, tmp_path: Path) -> None:
    """Baselines: one of 35 words, and who hears the tones and not their order.

    At half the rate the same models, untrained there, hear words if they are told the gaps; told none, tones of twice
    the pitch.
    """
    write_clips(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path), "pad": "mask"}
    run = ("speech-commands", "s5")
    told = {"name": "all-words", "settings": small(200), **knobs, "time": "true"}
    ordered, slower = trained(*run, **told), trained(*run, **told, at={"rate": 8000})
    untold = trained(*run, **told, at={"rate": 8000, "time": "ignored"})
    bag = trained("speech-commands", "transformer", name="all-words", settings=small(200, **BAG), **knobs)
    assert min(ordered) > without_order() + 0.2, ordered
    assert min(slower) > 1 / 35 + 0.5, slower
    assert max(untold) < min(slower) - 0.3, (untold, slower)
    assert max(bag) < 1 / 35 + 0.1, bag


# WikiText-103: words that depend on the word before the last one.

WORDS = [a + b for a in "bdfklmnprst" for b in ("al", "en", "or")][:32]

KEPT = 0.9
"""How often a word follows the table; else it is any."""


def article(number: int, words: int, table: np.ndarray, rng: np.random.Generator) -> str:
    """Return an article of one line, with a heading: each word is the table's for the word before the last one."""
    drawn = rng.integers(0, len(WORDS), words).tolist()
    for i in range(2, words):
        if rng.random() < KEPT:
            drawn[i] = int(table[drawn[i - 2]])
    text = " ".join(WORDS[i] for i in drawn)
    return f" = Article {number} = \n \n {text} \n \n"


def write_articles(root: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.permutation(len(WORDS))
    folder = root / "wikitext-103"
    folder.mkdir(parents=True)
    for name, number in (("train", 120), ("valid", 8), ("test", 16)):
        text = " \n" + "".join(article(i, 250, table, rng) for i in range(number))
        (folder / f"wiki.{name}.tokens").write_text(text, encoding="utf-8")


def of_counts(train: np.ndarray, test: np.ndarray, order: int) -> float:
    """Return the mean nats of test tokens, foretold by how often they follow the `order` (0 or 1) tokens before."""
    size = int(max(train.max(), test.max())) + 1
    if order == 0:
        counts = np.bincount(train, minlength=size) + 1.0
        return float(-np.log(counts / counts.sum())[test[1:]].mean())
    pairs = np.zeros((size, size))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    # What is not seen often is mixed with what is seen without regard to the token before.
    single = (np.bincount(train, minlength=size) + 1.0) / (len(train) + size)
    shares = (pairs + 5 * single) / (pairs.sum(1, keepdims=True) + 5)
    return float(-np.log(shares)[test[:-1], test[1:]].mean())


def tokens(task: str, split: str, **knobs: Any) -> np.ndarray:
    return np.array(ssm_data.load(task, split, **knobs).arrays["tokens"]).astype(np.int64)


def test_words_that_depend_on_the_last_but_one(trained: Trained, tmp_path: Path) -> None:
    """Baselines: perplexity by the words' frequencies, and by those after the word before; neither knows the rule."""
    write_articles(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path), "length": 64}
    train, test = (tokens("wikitext103", split, **knobs) for split in ("train", "test"))
    unigram, bigram = (float(np.exp(of_counts(train, test, order))) for order in (0, 1))
    ordered = trained("wikitext103", "mamba2", "perplexity", settings=small(100, batch_size=16), **knobs)
    bag = trained(
        "wikitext103", "transformer", "perplexity", settings=small(100, batch_size=16, **BAG), **knobs
    )
    assert max(ordered) < 0.3 * min(unigram, bigram), (ordered, unigram, bigram)
    assert min(bag) > 0.8 * min(unigram, bigram), (bag, unigram, bigram)


# Text: the help texts that come with Python, which are real.


def test_help_texts_beat_pairs_of_letters(trained: Trained) -> None:
    """Baselines: bits per byte by the bytes' frequencies, and by those after the byte before."""
    knobs = {"length": 128}
    shares = {"validation": 0.1, "test": 0.1}
    train, test = (tokens("text-lm", split, **shares, **knobs) for split in ("train", "test"))
    unigram, bigram = (of_counts(train, test, order) / np.log(2) for order in (0, 1))
    size = {"width": 64, "batch_size": 16}
    ordered = trained("text-lm", "mamba2", "bits_per_byte", settings=small(100, **size), **knobs)
    bag = trained("text-lm", "transformer", "bits_per_byte", settings=small(100, **size, **BAG), **knobs)
    assert max(ordered) < min(unigram, bigram) - 0.3, (ordered, unigram, bigram)
    assert min(bag) > bigram - 0.1, (bag, bigram)


# Series of the archives: a hill before a valley, or a valley before a hill.


def series(label: int, rng: np.random.Generator) -> np.ndarray:
    """Return 40 values: noise with a hill before a valley, or, with label 1, such a series backwards."""
    values = rng.normal(0, 0.3, 40)
    first, second = rng.integers(0, 14), rng.integers(20, 34)
    values[first : first + 6] += 1
    values[second : second + 6] -= 1
    return values[::-1] if label else values


def write_series(root: Path) -> None:
    rng = np.random.default_rng(0)
    head = "@problemName MadeUp\n@timeStamps false\n@univariate true\n@classLabel true hill valley\n@data\n"
    folder = root / "MadeUp"
    folder.mkdir(parents=True)
    for name, number in (("TRAIN", 300), ("TEST", 300)):
        rows = [
            ",".join(f"{x:.4f}" for x in series(i % 2, rng)) + f":{('hill', 'valley')[i % 2]}\n"
            for i in range(number)
        ]
        (folder / f"MadeUp_{name}.ts").write_text(head + "".join(rows), encoding="utf-8")


def test_series_that_are_read_forwards_or_backwards(trained: Trained, tmp_path: Path) -> None:
    """Baseline: one of two classes, 0.5: one class holds the other's series, backwards."""
    write_series(tmp_path)
    knobs = {"source": "local", "root": str(tmp_path), "dataset": "MadeUp"}
    ordered = trained("ts", "s5", settings=small(100, batch_size=16), **knobs)
    bag = trained("ts", "transformer", settings=small(100, batch_size=16, **BAG), **knobs)
    assert min(ordered) > 0.95, ordered
    assert max(bag) < 0.5 + 0.12, bag


# A table: a voltage behind a resistor and a capacitor, which follows its input the closer the longer the gap.


def write_table(path: Path) -> None:
    """Write series of y_k = exp(-gap_k) y_(k-1) + (1 - exp(-gap_k)) x_k, with gaps from 0.03 to 3."""
    rng = np.random.default_rng(0)
    rows = ["id,time,x,y\n"]
    for number in range(400):
        gaps, x = np.exp(rng.uniform(np.log(0.03), np.log(3), 30)), rng.normal(0, 1, 30)
        y = 0.0
        for time, gap, value in zip(gaps.cumsum(), gaps, x, strict=True):
            y = np.exp(-gap) * y + (1 - np.exp(-gap)) * value
            rows.append(f"{number},{time:.5f},{value:.5f},{y:.5f}\n")
    path.write_text("".join(rows), encoding="utf-8")


def test_what_follows_its_input_slowly_needs_the_gaps(trained: Trained, tmp_path: Path) -> None:
    """Baselines: a constant, which scores the targets' variance, and the same model without the gaps."""
    table = tmp_path / "voltages.csv"
    write_table(table)
    knobs = {"path": str(table), "value_columns": ("x",), "target_columns": ("y",)}
    constant = float(np.var(ssm_data.load("irregular-csv", "test", **knobs).arrays["target_values"]))
    true, ignored = (
        trained("irregular-csv", "s5", "mse", settings=small(200, batch_size=16), time=time, **knobs)
        for time in ("true", "ignored")
    )
    assert max(true) < 0.1 * constant, (true, constant)
    assert max(true) < 0.5 * min(ignored), (true, ignored)
