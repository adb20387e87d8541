"""Rows through a model one by one, each with its own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssm_core.evaluating import evaluating
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress, Task
from ssm_eval.forward import forward
from ssm_eval.metrics import METRICS

OF_TOKENS = ("perplexity", "word_perplexity", "bits_per_byte")
"""Metrics whose predictions are log-probabilities of the targets, which are in the input themselves."""


def gives_logits(task: Task) -> bool:
    """Whether a task's predictions are logits, which have an axis more than what is asked."""
    return any(METRICS[name].classes for name in task.metrics)


def foretells(task: Task) -> bool:
    """Whether a task's predictions are log-probabilities of targets that are known."""
    return any(name in OF_TOKENS for name in task.metrics)


def predict(
    model: nn.Module,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    device: torch.device | str,
    precision: str = "float32",
    progress: Progress | None = None,
    whose: str = "",
) -> list[dict[str, NDArray]]:
    """Return what a model answers to each row: what :meth:`ssm_core.protocols.Task.predictions` gives, on the CPU.

    Rows go in one by one, so that answers are each row's own, whatever the task asks of its elements.

    Args:
        model: Called with a batch, as :class:`ssm_core.model.SequenceModel` is.
        task: Knows how to ask.
        rows: Rows without targets.
        device: Where the model is.
        precision: ``float32``, ``bf16`` or ``fp16``.
        progress: Called as ``progress(what, done, total)``.
        whose: Where the rows come from, for messages.

    Raises:
        UserError: If a row cannot be answered; it names the row.
    """
    ids = _ids(model)
    found = []
    with evaluating(model), torch.no_grad():
        for index, row in enumerate(rows):
            where = f"{whose}, row {row.get('name', index)}".removeprefix(", ")
            _check_ids(where, row, ids)
            try:
                batch = task.collate([task.question(row)]).to(device)
                answer = task.predictions(forward(model, batch, None, precision), batch)
            except UserError as error:
                raise UserError(f"{where}: {error.what}", error.hint) from None
            except ValueError as error:  # a row longer than the model's positions, say
                raise UserError(f"{where}: {error}") from error
            if not all(bool(each.isfinite().all()) for each in answer.values()):
                raise UserError(
                    f"{where}: an answer is not finite", "look for NaN and huge values in its inputs"
                )
            found.append(_by_answer({name: each.cpu().numpy() for name, each in answer.items()}, row, task))
            if progress is not None:
                progress("predicting", index + 1, len(rows))
    return found


def _by_answer(answer: dict[str, NDArray], row: Mapping[str, Any], task: Task) -> dict[str, NDArray]:
    """Return what a task gives for a batch of one row as (N, ...).

    It may have left the batch's axis, (1, L, ...), or laid several numbers of an element end to end.
    """
    first, logits = answer["prediction"], gives_logits(task)
    if first.ndim == 1 and task.labels and not (logits or foretells(task)):
        shape = (-1, len(task.labels))  # of each element one after the other
        return {
            name: each.reshape(shape) if each.shape == first.shape else each for name, each in answer.items()
        }
    elements = len(row["inputs"] if "inputs" in row else next(iter(row.values())))
    kept = first.ndim > 1 + logits and first.shape[:2] == (1, elements)
    if not kept or (first.ndim == 2 and elements == len(task.labels)):
        return answer
    return {name: each[0] if each.shape[:2] == (1, elements) else each for name, each in answer.items()}


def _ids(model: nn.Module) -> int | None:
    """Return how many token ids a model knows; None if it reads no tokens."""
    tables = [each for each in getattr(model, "encoder", model).modules() if isinstance(each, nn.Embedding)]
    return sum(table.num_embeddings for table in tables) or None


def _check_ids(where: str, row: Mapping[str, Any], ids: int | None) -> None:
    for name in ("inputs", "inputs_2"):
        found = np.asarray(row.get(name, ()))
        if ids is None or not found.size or not np.issubdtype(found.dtype, np.integer):
            continue
        if not 0 <= found.min() <= found.max() < ids:
            raise UserError(
                f"{where}: '{name}' has ids from {found.min()} to {found.max()}",
                f"the model knows the ids 0 to {ids - 1}",
            )
