"""What a model says about its outputs as distributions, and how far two of them are apart (Kullback-Leibler)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ssm_core.protocols import Batch

AT_ONCE = 1 << 22
"""Probabilities computed at once: a vocabulary may have hundreds of thousands of ids."""


@dataclass(frozen=True)
class Said:
    """What a model says for P rows.

    Attributes:
        kind: Classes or tokens by their logits, a Gaussian for each value, or values alone.
        values: (P, M, ...): logits or features; (mean, variance); (value,).
        logits: From features to logits; None if ``values`` are logits.
    """

    kind: Literal["classes", "gaussian", "values"]
    values: tuple[Tensor, ...]
    logits: Callable[[Tensor], Tensor] | None = None


def said(model: Any, batch: Batch) -> Said | None:
    """Run a model on a batch and return what it says; None if the task's predictions are of no form known here.

    A head with a method ``log_probabilities(features, ...)`` is a language model's: all ids at every element.
    Otherwise the task's ``predictions`` are read: with ``variance`` they are Gaussian, with whole numbers as targets
    logits, with targets of their own shape plain values.
    """
    handed: list[tuple[Any, ...]] = []
    hook = model.head.register_forward_pre_hook(lambda _, args: handed.append(args))
    try:
        with torch.no_grad():
            output = model(batch)
    finally:
        hook.remove()
    rows = len(batch.inputs)
    of_all: Any = getattr(model.head, "log_probabilities", None)
    if of_all is not None and handed:
        features, _, *others = handed[0]
        return Said("classes", (features,), lambda y: of_all(y, *others))
    found = model.task.predictions(output, batch)
    value, target = found["prediction"], found["target"]
    if "variance" in found:
        return Said("gaussian", (value.unflatten(0, (rows, -1)), found["variance"].unflatten(0, (rows, -1))))
    if not target.is_floating_point() and value.ndim == target.ndim + 1:
        return Said("classes", (value.unflatten(0, (rows, -1)),))
    if value.shape == target.shape and value.is_floating_point():
        return Said("values", (value.unflatten(0, (rows, -1)),))
    return None


def divergence(first: Said, second: Said) -> Tensor:
    """Return the Kullback-Leibler divergence of the second from the first (P,), in nats, summed over all outputs.

    Plain values count as means of Gaussians of variance 1. In float64: the sums of small differences of large numbers
    are what is looked for.
    """
    if first.kind == "classes":
        return _of_classes(first, second)
    mean, other = first.values[0].double(), second.values[0].double()
    if first.kind == "values":
        return (mean - other).square().flatten(1).sum(1) / 2
    variance, other_variance = first.values[1].double(), second.values[1].double()
    ratio = variance / other_variance
    apart = (mean - other).square() / other_variance
    return ((ratio - 1 - torch.log(ratio) + apart) / 2).flatten(1).sum(1)


def _of_classes(first: Said, second: Said) -> Tensor:
    total = []
    for y, other in zip(first.values[0], second.values[0], strict=True):
        size = _log_p(first, y[:1]).shape[-1]
        parts = y.split(max(1, AT_ONCE // size)), other.split(max(1, AT_ONCE // size))
        sums = [_kl(_log_p(first, a), _log_p(second, b)) for a, b in zip(*parts, strict=True)]
        total.append(torch.stack(sums).sum())
    return torch.stack(total)


def _log_p(said: Said, values: Tensor) -> Tensor:
    # Normalised again in float64: the error of float32 logits then enters the divergence squared only.
    with torch.no_grad():
        logits = values if said.logits is None else said.logits(values)
    return torch.log_softmax(logits.double(), -1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    # What has no probability at all says nothing: 0 (-inf - -inf) would be NaN.
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum().clamp(min=0)
