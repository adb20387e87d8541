"""What is asked of a model about series: a class or some numbers, of a whole series or of each element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.protocols import Batch, Loss, Output
from ssm_data.classify import UNLABELLED, LabelledElements, Pooling, PoolingHead, pool
from ssm_data.ragged import pad
from ssm_data.series.facts import Facts

Per: TypeAlias = Literal["series", "element"]


class Goal(Protocol):
    """What is asked, and how an answer is judged.

    Attributes:
        metrics: Names of the metrics.
        primary: The one that selects the checkpoint, and its better direction.
    """

    metrics: Sequence[str]
    primary: tuple[str, str]

    def targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return ``targets`` of some rows, batch first, and what else is to be known of them."""
        ...

    def blank(self, length: int, facts: Facts) -> NDArray:
        """Return targets of a series of so many elements that ask for everything."""
        ...

    def head(self, d_model: int, facts: Facts) -> nn.Module:
        """Return the module from (B, L, D) to the answer."""
        ...

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the loss of an answer as sum and weight."""
        ...

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return what the metrics read."""
        ...


class Classes:
    """A class, of each series or of each element: cross-entropy of logits.

    Args:
        per: What has a class.
        pooling: How the features of a series become one vector.
    """

    metrics: Sequence[str] = ("accuracy", "cross_entropy")
    primary: tuple[str, str] = ("accuracy", "max")

    def __init__(self, per: Per = "series", pooling: Pooling = "mean") -> None:
        self.per: Per = per
        self.pooling: Pooling = pooling

    def targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return ``targets`` int64 (B,) or (B, L), -100 where no class is asked for."""
        if self.per == "element":
            return {"targets": pad(rows, "targets", UNLABELLED)[0].long()}
        return {"targets": torch.from_numpy(np.array([row["targets"] for row in rows], np.int64))}

    def blank(self, length: int, facts: Facts) -> NDArray[np.int64]:
        """Return zeros () or (L,)."""
        return np.zeros(() if self.per == "series" else length, np.int64)

    def head(self, d_model: int, facts: Facts) -> nn.Module:
        """Return a linear map to logits, after pooling if the series has the class."""
        if self.per == "element":
            return LabelledElements(d_model, len(facts.classes))
        return PoolingHead(d_model, len(facts.classes), self.pooling)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the cross-entropy summed over what has a class, and their number."""
        logits = output.head.to(torch.promote_types(output.head.dtype, torch.float32))
        total = F.cross_entropy(logits, batch.targets[batch.targets != UNLABELLED], reduction="sum")
        return Loss(total, total.new_tensor(float(len(logits))))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction``, logits (N, classes), and ``target`` (N,), of what has a class."""
        return {"prediction": output.head, "target": batch.targets[batch.targets != UNLABELLED]}


class Scaled(NamedTuple):
    """Answers in the units of the targets, and the deviation that a loss divides by.

    Attributes:
        value: (B, T) or (B, L, T).
        std: (T,).
    """

    value: Tensor
    std: Tensor


class Values:
    """Some numbers, of each series or of each element: squared error on the scale of the training split.

    Args:
        per: What has the numbers.
        pooling: How the features of a series become one vector.
    """

    metrics: Sequence[str] = ("mse", "mae")
    primary: tuple[str, str] = ("mse", "min")

    def __init__(self, per: Per = "series", pooling: Pooling = "mean") -> None:
        self.per: Per = per
        self.pooling: Pooling = pooling

    def targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return ``targets`` float32 (B, T) or (B, L, T), and where a number is ``asked`` for; it is 0 elsewhere."""
        if self.per == "element":
            targets = pad(rows, "targets", np.nan)[0].float()
        else:
            targets = torch.from_numpy(np.stack([row["targets"] for row in rows]).astype(np.float32))
        asked = ~targets.isnan()
        return {"targets": targets.where(asked, 0.0), "asked": asked}

    def blank(self, length: int, facts: Facts) -> NDArray[np.float32]:
        """Return zeros (T,) or (L, T)."""
        return np.zeros((*(() if self.per == "series" else (length,)), len(facts.targets)), np.float32)

    def head(self, d_model: int, facts: Facts) -> nn.Module:
        """Return a linear map to the numbers in their own units, after pooling if they are of the series."""
        return ValuesHead(d_model, facts, self.pooling if self.per == "series" else None)

    def loss(self, output: Output, batch: Batch) -> Loss:
        """Return the squared error in deviations, summed over what is asked for, and their number."""
        value, std = output.head
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        asked = batch.extra["asked"]
        error = torch.where(asked, (value - batch.targets) / std, 0.0)
        return Loss(error.square().sum(), asked.sum().to(error.dtype))

    def predictions(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``prediction`` and ``target``, each (N,) over what is asked for, in the units of the targets."""
        asked = batch.extra["asked"]
        return {"prediction": output.head.value[asked], "target": batch.targets[asked]}


class ValuesHead(nn.Module):
    """A linear map to numbers on their own scale: (B, L, D) to :class:`Scaled`.

    Args:
        d_model: Width D.
        facts: The scale, kept as buffers, that is with the weights.
        pooling: How the features of a series become one vector; None answers for each element.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, d_model: int, facts: Facts, pooling: Pooling | None = None) -> None:
        super().__init__()
        self.pooling: Pooling | None = pooling
        self.linear = nn.Linear(d_model, len(facts.targets))
        self.register_buffer("mean", torch.tensor(facts.target_mean))
        self.register_buffer("std", torch.tensor(facts.target_std))

    def forward(self, y_bld: Tensor, batch: Batch) -> Scaled:
        """Return the numbers, (B, T) or (B, L, T), and their deviation."""
        y = y_bld if self.pooling is None else pool(y_bld, batch.mask_bl, self.pooling)
        return Scaled(self.mean + self.std * self.linear(y), self.std)
