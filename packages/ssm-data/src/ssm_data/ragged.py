"""Sequences of unequal length: kept end to end with offsets, handed out as rows, padded into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssm_data.cache import Arrays, Part


def packed(sequences: Sequence[NDArray]) -> Arrays:
    """Return sequences (L_i, ...) end to end as ``values`` (sum L_i, ...) and ``offsets`` int64 (n + 1,)."""
    lengths = np.fromiter((len(each) for each in sequences), np.int64, len(sequences))
    values = np.concatenate(sequences) if len(sequences) else np.zeros(0)
    return {"values": values, "offsets": np.concatenate([[0], lengths.cumsum()]).astype(np.int64)}


class RaggedSplit:
    """A split of sequences with a target each, read from the cache as it is needed. Pickles as its place on disk.

    Rows are dicts: ``inputs`` (L, ...), ``targets`` () or (L, ...), and ``length`` int64 ().

    Attributes:
        part: Where it lies in the cache: arrays ``values`` and ``offsets`` as of :func:`packed`, and ``targets`` (n,),
            or ``target_values`` to the same offsets.
        arrays: The same, by name.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        names = sorted(path.stem for path in part.folder.glob("*.npy"))
        self.arrays = {name: part.open(name) for name in names}

    @property
    def provenance(self) -> str:
        """Where the data comes from, in words."""
        return self.part.provenance

    @property
    def fingerprint(self) -> str:
        """Hash of the data's content."""
        return self.part.content

    def __len__(self) -> int:
        return len(self.arrays["offsets"]) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        start, stop = self.arrays["offsets"][index : index + 2]
        per_element = self.arrays.get("target_values")
        targets = self.arrays["targets"][index] if per_element is None else per_element[start:stop]
        return {
            "inputs": np.array(self.arrays["values"][start:stop]),
            "targets": np.array(targets),
            "length": np.int64(stop - start),
        }

    def lengths(self) -> NDArray:
        """Return the length of every row (n,)."""
        return np.diff(self.arrays["offsets"])

    def __reduce__(self) -> tuple[Any, ...]:
        return RaggedSplit, (self.part,)


def pad(
    rows: Sequence[Mapping[str, Any]], key: str = "inputs", fill: float = 0
) -> tuple[Tensor, Tensor | None]:
    """Return rows (L_i, ...) as one tensor (B, L, ...) of their dtype, and the mask (B, L), None if all are as long.

    Args:
        rows: Rows of a split.
        key: Which of their arrays.
        fill: What stands behind a row's end.
    """
    arrays = [np.asarray(row[key]) for row in rows]
    lengths = np.array([len(array) for array in arrays])
    out = np.full((len(arrays), lengths.max(initial=0), *arrays[0].shape[1:]), fill, dtype=arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    if (lengths == out.shape[1]).all():
        return torch.from_numpy(out), None
    return torch.from_numpy(out), torch.from_numpy(np.arange(out.shape[1]) < lengths[:, None])
