"""What tasks have in common that give a sequence one label: encoder, pooling head, loss, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import Batch, Loss, Needs, Output, Task
from ssm_data.ragged import pad

Pooling: TypeAlias = Literal["mean", "last", "first", "max"]

UNLABELLED = -100
"""Target of an element without a label."""


class TokenEncoder(nn.Module):
    """An embedding of token ids, (B, L) to (B, L, D); what stands in masked places is not looked up.

    Args:
        vocabulary: Number of ids.
        d_model: Width D.
    """

    def __init__(self, vocabulary: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Embed a batch's inputs."""
        ids = batch.inputs.long()
        return self.embedding(ids if batch.mask_bl is None else ids.where(batch.mask_bl, 0))


class ValueEncoder(nn.Module):
    """A linear map of values, (B, L, C) or (B, L) to (B, L, D), after shifting and scaling them.

    Args:
        d_input: Channels C.
        d_model: Width D.
        mean: Subtracted from the inputs.
        std: They are divided by it.
    """

    def __init__(self, d_input: int, d_model: int, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.linear = nn.Linear(d_input, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Map a batch's inputs."""
        x = batch.inputs if batch.inputs.ndim == 3 else batch.inputs[..., None]
        return self.linear((x.to(self.linear.weight.dtype) - self.mean) / self.std)


class PoolingHead(nn.Module):
    """Pools features over the valid elements and maps them to logits: (B, L, D) to (B, classes).

    Args:
        d_model: Width D.
        classes: Number of classes.
        pooling: How; ``last`` and ``first`` are of each row's own valid elements.
    """

    def __init__(self, d_model: int, classes: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.linear = nn.Linear(d_model, classes)

    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        """Return logits (B, classes)."""
        return self.linear(pool(y_bld, batch.mask_bl, self.pooling))


def pool(y_bld: Tensor, mask_bl: Tensor | None, how: Pooling) -> Tensor:
    """Pool (B, L, D) over the valid elements to (B, D); a row without any gives zeros."""
    mask = torch.ones_like(y_bld[..., 0], dtype=torch.bool) if mask_bl is None else mask_bl
    inside, count = mask[..., None], mask.sum(1)
    if how == "mean":
        return torch.where(inside, y_bld, 0.0).sum(1) / count.clamp(min=1)[:, None].to(y_bld.dtype)
    if how == "max":
        top = y_bld.masked_fill(~inside, -torch.inf).amax(1)
        return torch.where(count[:, None] > 0, top, torch.zeros_like(top))
    time = torch.arange(y_bld.shape[1], device=y_bld.device)
    index = time.where(mask, -1).amax(1) if how == "last" else time.where(mask, len(time)).amin(1)
    picked = y_bld[torch.arange(len(y_bld), device=y_bld.device), index.clamp(0, max(len(time) - 1, 0))]
    return torch.where(count[:, None] > 0, picked, torch.zeros_like(picked))


class Classification(Task):
    """One label a sequence. A subclass gives ``splits``, ``encoder`` and the two attributes below.

    Attributes:
        classes: Number of classes.
        pooling: How the head pools.
    """

    needs = Needs(mask=True)
    metrics = ("accuracy", "cross_entropy")
    primary = ("accuracy", "max")
    classes: int
    pooling: Pooling = "mean"

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad rows to the longest: inputs (B, L, ...) in their own dtype, targets int64 (B,), mask (B, L) or None."""
        inputs, mask = pad(rows)
        targets = np.array([row["targets"] for row in rows], dtype=np.int64)
        return Batch(inputs=inputs, targets=torch.from_numpy(targets), mask_bl=mask)

    def head(self, d_model: int) -> nn.Module:
        """Return pooling and a linear map."""
        return PoolingHead(d_model, self.classes, self.pooling)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the cross-entropy summed over rows, and their number."""
        logits = output.head.to(torch.promote_types(output.head.dtype, torch.float32))
        total = F.cross_entropy(logits, batch.targets, reduction="sum")
        return Loss(total, total.new_tensor(float(len(batch.targets))))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction``, logits (B, classes), and ``target`` (B,)."""
        return {"prediction": output.head, "target": batch.targets}


class Labelling(Task):
    """A label for some elements of a sequence, -100 for those without. A subclass gives ``splits`` and the attribute.

    Attributes:
        vocabulary_size: Number of ids, of inputs and of labels.
    """

    needs = Needs(mask=True)
    metrics = ("accuracy", "cross_entropy")
    primary = ("accuracy", "max")
    vocabulary_size: int

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad rows to the longest: inputs (B, L) in their own dtype, targets int64 (B, L), mask (B, L) or None."""
        inputs, mask = pad(rows)
        targets, _ = pad(
            [{"targets": np.asarray(row["targets"], np.int64)} for row in rows], "targets", UNLABELLED
        )
        return Batch(inputs=inputs, targets=targets, mask_bl=mask)

    def encoder(self, d_model: int) -> nn.Module:
        """Return an embedding."""
        return TokenEncoder(self.vocabulary_size, d_model)

    def head(self, d_model: int) -> nn.Module:
        """Return a linear map to the vocabulary, of the labelled elements alone."""
        return LabelledElements(d_model, self.vocabulary_size)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the cross-entropy summed over labelled elements, and their number."""
        logits = output.head.to(torch.promote_types(output.head.dtype, torch.float32))
        total = F.cross_entropy(logits, batch.targets[batch.targets != UNLABELLED], reduction="sum")
        return Loss(total, total.new_tensor(float(len(logits))))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction``, logits (N, ids), and ``target`` (N,), of the labelled elements."""
        return {"prediction": output.head, "target": batch.targets[batch.targets != UNLABELLED]}


class LabelledElements(nn.Module):
    """A linear map of the features of labelled elements: (B, L, D) to (N, classes), in the order of ``targets``.

    What is not labelled is not computed: with many classes and few labels it would be most of the memory.

    Args:
        d_model: Width D.
        classes: Number of classes.
    """

    def __init__(self, d_model: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, classes)

    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        """Return logits (N, classes)."""
        return self.linear(y_bld[batch.targets != UNLABELLED])


class EachElement(nn.Module):
    """A linear map of each element's features: (B, L, D) to (B, L, classes).

    Args:
        d_model: Width D.
        classes: Number of classes.
    """

    def __init__(self, d_model: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, classes)

    def forward(self, y_bld: Tensor, batch: Batch) -> Tensor:
        """Return logits (B, L, classes)."""
        return self.linear(y_bld)
