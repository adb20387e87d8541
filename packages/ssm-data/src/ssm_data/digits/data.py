"""The splits of the digits, read from scikit-learn's copy and kept in the cache."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache
from ssm_data.digits.spec import IMAGES, DigitsConfig

READER = 1
"""Raised when the arrays for the same knobs change."""

SPLITS = ("train", "validation", "test")

GREYS = 16
"""The largest grey value: each counts the set pixels of a 4x4 square."""

KNOWN = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
"""sha256 of all images, uint8 (1797, 64)."""

KNOWN_LABELS = "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"
"""sha256 of all labels, uint8 (1797,)."""

FILE = "scikit-learn's digits.csv.gz"
REPAIR = "reinstall scikit-learn, which ships the file"


class DigitsSplit:
    """One split, read from the cache. Pickles as its place on disk.

    Rows are dicts: ``inputs`` uint8 (64,), grey values 0..16 row by row, and ``targets`` int64 (), the digit.

    Attributes:
        part: Where it lies in the cache, and what it was made from.
        arrays: ``inputs`` (n, 64), ``targets`` (n,) and ``index`` (n,), the image's number in the original order.
    """

    def __init__(self, part: cache.Part) -> None:
        self.part = part
        self.arrays = {name: part.open(name) for name in ("inputs", "targets", "index")}

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["targets"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "inputs": np.array(self.arrays["inputs"][index]),
            "targets": np.array(self.arrays["targets"][index], dtype=np.int64),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return DigitsSplit, (self.part,)


def load_splits(config: DigitsConfig, progress: Progress | None = None) -> dict[str, DigitsSplit]:
    """Return all splits, preparing what the cache lacks.

    Raises:
        UserError: If scikit-learn's file is damaged, or the cache cannot be written.
    """
    identity = {"reader": READER, "seed": config.seed, "sizes": [config.n_validation, config.n_test]}

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        images, labels, provenance = read()
        for done, (name, index) in enumerate(drawn(config).items(), 1):
            if name in missing:
                yield name, {"inputs": images[index], "targets": labels[index], "index": index}, provenance
            if progress:
                progress("digits data", done, len(SPLITS))

    parts = cache.obtain(cache.root(config.cache), "digits", identity, SPLITS, make)
    return {name: DigitsSplit(part) for name, part in parts.items()}


def drawn(config: DigitsConfig) -> dict[str, NDArray[np.uint16]]:
    """Return the numbers of each split's images; the test images do not depend on the size of the validation split."""
    order = Generator(PCG64(SeedSequence(config.seed))).permutation(IMAGES).astype(np.uint16)
    test, validation, train = np.split(order, [config.n_test, config.n_test + config.n_validation])
    return {"train": train, "validation": validation, "test": test}


def read() -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Read scikit-learn's file: images (1797, 64), labels (1797,), and where they come from in words.

    Raises:
        UserError: If the file is missing or damaged, or a value in it makes no sense; it names the row.
    """
    import sklearn  # here, since it takes a second to import and only the first run needs it
    from sklearn.datasets import load_digits

    try:
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # of an empty file, before it fails
            values, labels = load_digits(return_X_y=True)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{FILE} cannot be read: {error or type(error).__name__}", REPAIR) from error
    images, labels = checked(np.asarray(values), np.asarray(labels))
    provenance = f"official: the {IMAGES} images that scikit-learn {sklearn.__version__} ships"
    known = (("images", images, KNOWN), ("labels", labels, KNOWN_LABELS))
    others = " and ".join(name for name, array, sha256 in known if cache.content_hash(array) != sha256)
    if not others:
        return images, labels, f"{provenance} (sha256 {KNOWN[:12]}, labels {KNOWN_LABELS[:12]}, as expected)"
    cache.log.warning("%s has other %s than the known ones; results may differ", FILE, others)
    return images, labels, f"{provenance}; DIFFERS from the known ones in {others}"


def checked(values: NDArray, labels: NDArray) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return values (1797, 64) and labels (1797,) as uint8, if they are grey values and digits.

    Raises:
        UserError: If not; it names the first row that is wrong, counted from 1 as lines of the file are.
    """
    if values.shape != (IMAGES, 64) or labels.shape != (IMAGES,):
        raise UserError(
            f"{FILE} has {values.shape} values and {labels.shape} labels, not ({IMAGES}, 64) and ({IMAGES},)",
            REPAIR,
        )
    # Comparisons with NaN are false, so what is asked is what must hold.
    good = ((values >= 0) & (values <= GREYS) & (values == np.round(values))).all(axis=1)
    good &= (labels >= 0) & (labels <= 9) & (labels == np.round(labels))
    if not good.all():
        row = int(np.argmin(good))
        raise UserError(
            f"{FILE}, row {row + 1}: grey values are whole numbers 0 to {GREYS} and labels 0 to 9, not "
            f"{values[row].tolist()} with label {labels[row]}",
            REPAIR,
        )
    return values.astype(np.uint8), labels.astype(np.uint8)
