"""Metrics by name. Each is a sum over a weight, so batches and processes may be cut anywhere without changing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from ssm_core.plugin.errors import ConfigError, UserError, did_you_mean

IGNORED = -100
"""Label that marks an element without a class; accuracy and cross-entropy leave it out."""


class Mean(Metric):
    """Sum over weight of everything seen; torchmetrics adds both up over processes.

    Both are kept in float64 whatever the model computes in (float32 where a device has no float64).

    Attributes:
        total: The sum so far, ().
        weight: The weight so far, ().
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        dtype = wide(torch.device(device))
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.to(device)

    def update(self, total: Tensor, weight: Tensor) -> None:
        """Add a batch's sum and weight, both ()."""
        self.total = self.total + total.detach().to(self.total)
        self.weight = self.weight + weight.detach().to(self.weight)

    def compute(self) -> Tensor:
        """Return sum over weight, (); NaN if nothing had weight."""
        return self.total / self.weight


def wide(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


Measured = tuple[Tensor, Tensor]
"""Sum over a batch, and its weight."""


def squared_error(prediction: Tensor, target: Tensor) -> Measured:
    """Return the sum of squared errors and the number of elements."""
    return (prediction - target).square().sum(), _count(target)


def absolute_error(prediction: Tensor, target: Tensor) -> Measured:
    """Return the sum of absolute errors and the number of elements."""
    return (prediction - target).abs().sum(), _count(target)


def gaussian_nll(prediction: Tensor, target: Tensor, variance: Tensor) -> Measured:
    """Return the negative log-likelihood under independent Gaussians, in nats, and the number of rows.

    The last axis holds the dimensions of one observation, whose terms are added; all axes before it are rows. A
    tensor of one axis holds rows of one dimension.
    """
    terms = variance.log() + (target - prediction).square() / variance + math.log(2 * math.pi)
    rows = terms[..., 0] if terms.ndim > 1 else terms
    return 0.5 * terms.sum(), _count(rows)


def correct(prediction: Tensor, target: Tensor) -> Measured:
    """Return how often the largest logit is the target's, and the number of targets that are not ignored."""
    valid = target != IGNORED
    return ((prediction.argmax(-1) == target) & valid).sum(), valid.sum()


def cross_entropy(prediction: Tensor, target: Tensor) -> Measured:
    """Return the summed cross-entropy of logits, in nats, and the number of targets that are not ignored."""
    logits = prediction.reshape(-1, prediction.shape[-1])
    total = F.cross_entropy(logits, target.reshape(-1).long(), ignore_index=IGNORED, reduction="sum")
    return total, (target != IGNORED).sum()


def surprise(prediction: Tensor, target: Tensor) -> Measured:
    """Return the summed surprise of log-probabilities, in nats, and the number of tokens."""
    return -prediction.sum(), _count(target)


def surprise_a_unit(prediction: Tensor, target: Tensor, units: Tensor) -> Measured:
    """Return the summed surprise of log-probabilities, in nats, and what the tokens count for (words, say)."""
    return -prediction.sum(), units.sum()


def bits_a_unit(prediction: Tensor, target: Tensor, units: Tensor) -> Measured:
    """Return the summed surprise of log-probabilities, in bits, and what the tokens count for (bytes, say)."""
    return -prediction.sum() / math.log(2), units.sum()


def _count(values: Tensor) -> Tensor:
    return torch.tensor(values.numel())


@dataclass(frozen=True)
class Definition:
    """A metric.

    Attributes:
        inputs: What it reads of a task's predictions, in the order that ``measure`` takes them.
        measure: Returns sum and weight of a batch.
        classes: The prediction has one axis more than the target, of logits.
        finish: What becomes of sum over weight in the end: a perplexity is the exponential of a mean, and no mean.
    """

    inputs: tuple[str, ...]
    measure: Callable[..., Measured]
    classes: bool = False
    finish: Callable[[Tensor], Tensor] = torch.clone


METRICS = {
    "mse": Definition(("prediction", "target"), squared_error),
    "mae": Definition(("prediction", "target"), absolute_error),
    "nll": Definition(("prediction", "target", "variance"), gaussian_nll),
    "accuracy": Definition(("prediction", "target"), correct, classes=True),
    "cross_entropy": Definition(("prediction", "target"), cross_entropy, classes=True),
    "perplexity": Definition(("prediction", "target"), surprise, finish=torch.exp),
    "word_perplexity": Definition(("prediction", "target", "words"), surprise_a_unit, finish=torch.exp),
    "bits_per_byte": Definition(("prediction", "target", "bytes"), bits_a_unit),
}
"""Every metric a task may name."""


class MetricSet:
    """Several metrics over the same predictions; made by :func:`make_metrics`.

    Args:
        names: Keys of :data:`METRICS`.
        device: Where the sums are kept.
        whose: The task, for messages.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str, whose: str) -> None:
        self._whose = whose
        self._means = {name: Mean(device) for name in names}

    def update(self, predictions: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            predictions: What :meth:`ssm_core.protocols.Task.predictions` gives: ``prediction`` and ``target``
                (N, ...), for ``nll`` also ``variance`` (N, ...); for ``accuracy`` and ``cross_entropy`` the prediction
                is logits (N, ..., classes); for the three of language models it is the log-probability of each target,
                beside ``bytes`` and ``words``, what each target counts for (N, ...).

        Raises:
            UserError: If something a metric needs is missing, or shapes do not agree.
        """
        for name, mean in self._means.items():
            mean.update(*self._measure(name, predictions))

    def compute(self) -> dict[str, float]:
        """Return every metric over all batches of all processes (all of them have to call this)."""
        return {name: float(METRICS[name].finish(mean.compute())) for name, mean in self._means.items()}

    def reset(self) -> None:
        """Forget all batches."""
        for mean in self._means.values():
            mean.reset()

    def _measure(self, name: str, predictions: Mapping[str, Tensor]) -> Measured:
        needed = METRICS[name]
        missing = [key for key in needed.inputs if key not in predictions]
        if missing:
            raise UserError(
                f"the metric '{name}' needs {' and '.join(map(repr, missing))}, which the predictions of "
                f"{self._whose} lack",
                f"they give: {', '.join(predictions) or 'nothing'}",
            )
        values = [predictions[key] for key in needed.inputs]
        target = predictions["target"]
        for key, value in zip(needed.inputs, values, strict=True):
            shape = value.shape[:-1] if needed.classes and key == "prediction" else value.shape
            # Shapes that merely broadcast would give a plausible number that means nothing.
            if shape != target.shape:
                raise UserError(
                    f"the metric '{name}' of {self._whose} gets '{key}' of shape {tuple(value.shape)} for targets "
                    f"of shape {tuple(target.shape)}",
                    "logits have one axis more than their targets, everything else has the same shape",
                )
        dtype = wide(target.device)
        return needed.measure(*(v.detach().to(dtype) if v.is_floating_point() else v for v in values))


def make_metrics(
    names: Sequence[str], device: torch.device | str = "cpu", *, whose: str = "the task"
) -> MetricSet:
    """Return the metrics that a task names.

    Args:
        names: Keys of :data:`METRICS`.
        device: Where the predictions are.
        whose: The task, for messages.

    Raises:
        ConfigError: For an unknown name.
    """
    for name in names:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            known = f"known: {', '.join(sorted(METRICS))}"
            raise ConfigError(
                f"{whose} asks for the metric '{name}', which there is not",
                known if hint.startswith("known") else f"{hint} ({known})",
            )
    return MetricSet(names, device, whose)
