"""What the picture tasks have in common: grey pictures read row by row as sequences, and how they are split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssm_core.protocols import Batch, Needs
from ssm_data.cache import Part, fingerprint
from ssm_data.classify import Classification, Pooling, TokenEncoder, ValueEncoder

LEVELS = 256


@dataclass(frozen=True)
class Selection:
    """Rows ``start:stop`` of ``total``, in their order or in that of a seeded shuffle.

    Attributes:
        total: Number of rows chosen from.
        start: First place in the order.
        stop: Place behind the last.
        seed: Seed of ``torch.randperm``, as in ``torch.utils.data.random_split`` with a generator of that seed; None
            keeps the rows in their order.
    """

    total: int
    start: int
    stop: int
    seed: int | None = None

    def indices(self) -> NDArray[np.int64]:
        """Return the chosen rows' numbers (stop - start,)."""
        if self.seed is None:
            return np.arange(self.start, self.stop)
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(self.seed))
        return order[self.start : self.stop].numpy()


class PixelSplit:
    """A split of pictures, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` uint8 (height * width,), row by row, and ``targets`` int64 ().

    Args:
        blocks: Parts of the cache that hold the pictures one after the other, each with arrays ``inputs`` uint8
            (n, height * width) and ``targets`` uint8 (n,); all but the last of one length.
        chosen: Which of them belong to the split.
        vocabulary: Names of the grey values, if they are read as tokens.
    """

    def __init__(
        self, blocks: tuple[Part, ...], chosen: Selection, vocabulary: list[str] | None = None
    ) -> None:
        self.blocks, self.chosen = blocks, chosen
        if vocabulary:
            self.vocabulary = vocabulary
        self._order = chosen.indices()
        self._open: dict[int, tuple[NDArray, NDArray]] = {}
        self._block_size = len(self._block(0)[1])

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.blocks[0].provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return fingerprint({str(i): part.content for i, part in enumerate(self.blocks)})

    @cached_property
    def arrays(self) -> dict[str, NDArray]:
        """All rows in memory: ``inputs`` (n, height * width) and ``targets`` (n,)."""
        which = self._order // self._block_size
        inputs = np.empty((len(self), self._block(0)[0].shape[1]), np.uint8)
        targets = np.empty(len(self), np.uint8)
        for number in np.unique(which):
            rows, (held, labels) = which == number, self._block(int(number))
            inside = self._order[rows] - number * self._block_size
            inputs[rows], targets[rows] = held[inside], labels[inside]
        return {"inputs": inputs, "targets": targets}

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number, inside = divmod(int(self._order[index]), self._block_size)
        inputs, targets = self._block(number)
        return {"inputs": np.array(inputs[inside]), "targets": np.int64(targets[inside])}

    def _block(self, number: int) -> tuple[NDArray, NDArray]:
        if number not in self._open:
            part = self.blocks[number]
            self._open[number] = part.open("inputs"), part.open("targets")
        return self._open[number]

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelSplit, (self.blocks, self.chosen, getattr(self, "vocabulary", None))


class PixelKnobs(Protocol):
    """The knobs that all picture tasks have."""

    @property
    def inputs(self) -> Literal["values", "tokens"]:
        """As what grey values are put in."""
        ...

    @property
    def mean(self) -> float:
        """Subtracted from values, in units of white."""
        ...

    @property
    def std(self) -> float:
        """Values are divided by it, in units of white."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How features of all steps become one."""
        ...


class PixelTask(Classification):
    """A label for a picture that is read pixel by pixel. A subclass gives ``splits`` and ``classes``.

    Args:
        knobs: How pixels are put in and features pooled.
        max_length: Pixels of a picture.
    """

    needs = Needs()  # all sequences are of one length

    def __init__(self, knobs: PixelKnobs, max_length: int) -> None:
        self.knobs, self.pooling, self.max_length = knobs, knobs.pooling, max_length

    @property
    def vocabulary(self) -> list[str] | None:
        """Names of the 256 grey values, if they are tokens."""
        return [str(level) for level in range(LEVELS)] if self.knobs.inputs == "tokens" else None

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows: uint8 inputs (B, L), int64 targets (B,)."""
        targets = np.array([row["targets"] for row in rows], dtype=np.int64)
        inputs = np.stack([row["inputs"] for row in rows])
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding of the grey values, or a linear map of them, shifted and scaled."""
        if self.knobs.inputs == "tokens":
            return TokenEncoder(LEVELS, d_model)
        return ValueEncoder(1, d_model, mean=255 * self.knobs.mean, std=255 * self.knobs.std)
