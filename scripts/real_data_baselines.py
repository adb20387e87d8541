"""What the runs on docs/results/real-data.md are compared with: guesses, counts and linear models on the same splits.

uv run python scripts/real_data_baselines.py                    all, in the folder of docs/how-to/real-data.md
uv run python scripts/real_data_baselines.py glucose mails      only these

Takes minutes. The page has the figures; nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import NearestCentroid

import ssm_data
from ssm_core.protocols import Split

PICTURES = 800 * 32
"""Training pictures that the run on Fashion-MNIST saw: steps times rows of a batch."""

SMOOTHING = 0.1
"""What every count begins with."""

load: Callable[..., Any] = ssm_data.load
"""The splits of these tasks have more than the protocol asks for: arrays."""

Figures = Iterator[tuple[str, float]]


def glucose() -> Figures:
    """Yield errors of the mean of the training split and of the last reading, which is the first input."""
    knobs = {"path": "glucose.csv", "split_column": "split"}
    train, test = (load("irregular-csv", split, **knobs) for split in ("train", "test"))
    mean = np.nanmean(np.concatenate([row["targets"][:, 0] for row in rows(train)]))
    wanted = np.concatenate([row["targets"][:, 0] for row in rows(test)])
    last = np.concatenate([row["inputs"][:, 0] for row in rows(test)])
    yield "the training mean, MSE", float(np.nanmean((wanted - mean) ** 2))
    yield "the last reading, MSE", float(np.nanmean((wanted - last) ** 2))
    yield "the last reading, MAE", float(np.nanmean(abs(wanted - last)))


def fashion() -> Figures:
    """Yield accuracies of the nearest class mean and of a logistic regression that sees each picture once."""
    knobs = {"dataset": "fashion-mnist", "root": "usr/share/datasets"}
    splits = [load("lra-image", split, **knobs).arrays for split in ("train", "test")]
    (x, y), (x_test, y_test) = ((split["inputs"] / np.float32(255), split["targets"]) for split in splits)
    yield "the nearest class mean, accuracy", NearestCentroid().fit(x, y).score(x_test, y_test)
    # No tolerance: otherwise a single pass would warn that it has not converged.
    once = SGDClassifier(loss="log_loss", max_iter=1, tol=None, random_state=0)  # pyright: ignore[reportArgumentType]
    seen = once.fit(x[:PICTURES], y[:PICTURES])
    yield f"logistic regression on {PICTURES} pictures, seen once, accuracy", seen.score(x_test, y_test)


def mails() -> Figures:
    """Yield accuracies of "always ham" and of a regression on counts of byte pairs, whose penalty validation chose."""
    knobs = {"dataset": "spam", "root": "mails", "max_length": 1024, "validation": 0.1}
    (x, y), (x_val, y_val), (x_test, y_test) = (
        byte_pairs(load("lra-text", split, **knobs)) for split in ("train", "validation", "test")
    )
    yield "always ham, accuracy", float(1 - y_test.mean())
    models = [LogisticRegression(C=C, max_iter=300).fit(x, y) for C in (0.01, 0.1, 1.0)]
    best = max(models, key=lambda model: model.score(x_val, y_val))
    yield f"logistic regression on byte pairs, C {best.C}, accuracy", best.score(x_test, y_test)


def austen() -> Figures:
    """Yield bits per byte of counts of three and of four bytes."""
    knobs = {"path": "austen", "validation": 0.01, "test": 0.01}
    train, test = (load("text-lm", split, **knobs).arrays["tokens"] for split in ("train", "test"))
    for n in (3, 4):
        yield f"counts of {n} bytes, bits per byte", bits_per_byte(train, test, n)


BASELINES: dict[str, Callable[[], Figures]] = {
    "glucose": glucose,
    "fashion": fashion,
    "mails": mails,
    "austen": austen,
}


def rows(split: Split) -> Iterator[Mapping[str, NDArray]]:
    """Yield every row of a split."""
    return (split[i] for i in range(len(split)))


def byte_pairs(split: Split) -> tuple[csr_matrix, NDArray]:
    """Return log(1 + counts) of neighbouring ids, of which there are 258, and the labels."""
    row, pair, count, labels = [], [], [], []
    for i, mail in enumerate(rows(split)):
        ids = mail["inputs"].astype(int)
        found, times = np.unique(ids[:-1] * 258 + ids[1:], return_counts=True)
        row.append(np.full(len(found), i))
        pair.append(found)
        count.append(np.log1p(times))
        labels.append(int(mail["targets"]))
    places = np.concatenate(row), np.concatenate(pair)
    return csr_matrix((np.concatenate(count), places), shape=(len(labels), 258**2)), np.array(labels)


def bits_per_byte(train: NDArray, test: NDArray, n: int) -> float:
    """Return the mean of -log2 p(byte | n - 1 bytes before), p from counts smoothed by :data:`SMOOTHING` a byte.

    The bytes that are smoothed over are those that the texts have at all.
    """
    kinds = len(np.union1d(train, test))
    whole, seen = counted(train, n, test)
    before, context = counted(train[:-1], n - 1, test[:-1])
    p = (seen[whole] + SMOOTHING) / (context[before] + kinds * SMOOTHING)
    return float(-np.log2(p).mean())


def counted(train: NDArray, n: int, test: NDArray) -> tuple[NDArray, NDArray]:
    """Return for every n bytes of a test text the number of their kind, and for every kind its count in training."""
    codes = [
        sum(text[k : len(text) - n + 1 + k].astype(np.int64) << 8 * k for k in range(n))
        for text in (train, test)
    ]
    kinds, which = np.unique(codes[1], return_inverse=True)
    places = np.searchsorted(kinds, codes[0]).clip(max=len(kinds) - 1)
    return which, np.bincount(places[kinds[places] == codes[0]], minlength=len(kinds))


if __name__ == "__main__":
    for name in sys.argv[1:] or BASELINES:
        for what, figure in BASELINES[name]():
            print(f"{name}: {what} {figure:.4g}", flush=True)
