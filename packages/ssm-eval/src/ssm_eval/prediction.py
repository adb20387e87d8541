"""What a trained model answers to rows of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssm_core.evaluating import evaluating
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress, Task
from ssm_core.run.folder import RunFolder
from ssm_eval.forward import forward
from ssm_eval.metrics import METRICS
from ssm_eval.questions import read_rows
from ssm_eval.trained import find_device, load_checkpoint


@dataclass(frozen=True)
class Predictions:
    """Answers, row by row.

    Attributes:
        run: The run folder.
        step: Step of the checkpoint that answers.
        input: The file, or where else the rows come from.
        names: A word for each row: its own, or its place from 0.
        rows: Of each row what the task's :meth:`ssm_core.protocols.Task.predictions` gives, (N, ...) with N the number
            of its answers: ``prediction``, and what belongs to it, such as ``variance``.
        classes: Whether a prediction is logits.
        labels: Names of the classes, of the numbers or of the tokens, in their order; empty if they have none.
    """

    run: str
    step: int
    input: str
    names: Sequence[str | int]
    rows: Sequence[Mapping[str, NDArray]]
    classes: bool
    labels: Sequence[str]

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield each answer as a flat dict: its ``row``, ``element`` if some row has several, and what is answered.

        That is ``class`` and its ``probability`` for logits; otherwise a number for each thing that is asked.
        """
        several = any(len(row["prediction"]) != 1 for row in self.rows)
        for name, row in zip(self.names, self.rows, strict=True):
            columns = self._classes(row) if self.classes else self._numbers(row)
            for element in range(len(row["prediction"])):
                place = {"row": name, "element": element} if several else {"row": name}
                yield place | {key: values[element] for key, values in columns.items()}

    def arrays(self) -> dict[str, NDArray]:
        """Return all answers end to end, (sum N, ...) by name, and ``row``, the place of the row of each (sum N,)."""
        counts = [len(row["prediction"]) for row in self.rows]
        out = {"row": np.repeat(np.arange(len(counts)), counts)}
        return out | {key: np.concatenate([row[key] for row in self.rows]) for key in self.rows[0]}

    def save(self, path: Path) -> None:
        """Write :meth:`arrays` as .npz.

        Raises:
            OSError: If it cannot be written.
        """
        arrays: dict[str, Any] = self.arrays()
        np.savez(path, **arrays)

    def _classes(self, row: Mapping[str, NDArray]) -> dict[str, list[Any]]:
        logits = row["prediction"].astype(np.float64)
        best = logits.argmax(-1)
        # The softmax at its largest entry.
        probability = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
        named = [self.labels[i] for i in best] if self.labels else best.tolist()
        return {"class": named, "probability": _told(probability)}

    def _numbers(self, row: Mapping[str, NDArray]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        if "target" in row:  # of a language model: the token whose log-probability is predicted
            columns["token"] = [self.labels[i] if self.labels else int(i) for i in row["target"]]
        for key in [key for key in row if key != "target"]:
            flat = row[key].reshape(len(row[key]), -1)
            for index in range(flat.shape[1]):
                columns[self._column(key, index, flat.shape[1])] = _told(flat[:, index])
        return columns

    def _column(self, key: str, index: int, width: int) -> str:
        if len(self.labels) == width:
            return self.labels[index] if key == "prediction" else f"{key} of {self.labels[index]}"
        return key if width == 1 else f"{key}_{index}"


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
            _known(where, row, ids)
            asked = task.question(row)
            batch = task.collate([asked]).to(device)
            answer = task.predictions(forward(model, batch, None, precision), batch)
            if not all(bool(each.isfinite().all()) for each in answer.values()):
                raise UserError(
                    f"{where}: an answer is not finite", "look for NaN and huge values in its inputs"
                )
            counted = not answer["target"].is_floating_point()
            found.append(
                {name: _by_answer(each.cpu().numpy(), asked, task, counted) for name, each in answer.items()}
            )
            if progress is not None:
                progress("predicting", index + 1, len(rows))
    return found


def predict_run(
    run: Path | str,
    input: Path | str | Sequence[Mapping[str, Any]],
    *,
    which: str = "best",
    device: str = "auto",
    progress: Progress | None = None,
) -> Predictions:
    """Ask a run's model about rows of one's own.

    Args:
        run: The run folder.
        input: A file as :func:`ssm_eval.questions.read_rows` reads it, or rows: dicts of arrays such as
            :func:`ssm_data.load` gives, without ``targets``. A row may have ``name``, a word for it.
        which: ``best`` or ``latest`` checkpoint.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        progress: Called as ``progress(what, done, total)``.

    Raises:
        UserError: If the folder is no run, has no checkpoint, or the rows are not what its task takes.
    """
    folder, where = RunFolder.open(run), find_device(device)
    model, config, step = load_checkpoint(folder, which)
    task = model.task
    task.prepare(progress)
    rows = read_rows(Path(input).expanduser(), task) if isinstance(input, Path | str) else input
    source = str(input) if isinstance(input, Path | str) else ""
    if not len(rows):
        raise UserError(f"{source or 'the input'} has no rows", "give one row at least")
    answers = predict(
        model.to(where),
        task,
        rows,
        device=where,
        precision=config.train.precision,
        progress=progress,
        whose=source,
    )
    classes = _logits(task)
    if classes or not np.issubdtype(answers[0]["target"].dtype, np.integer):
        # Nobody knows them: they are blanks that stand for what is asked.
        answers = [{name: each for name, each in row.items() if name != "target"} for row in answers]
    return Predictions(
        run=str(folder.path),
        step=step,
        input=source,
        names=[row.get("name", index) for index, row in enumerate(rows)],
        rows=answers,
        classes=classes,
        labels=list(task.labels),
    )


def _logits(task: Task) -> bool:
    """Whether a task's predictions are logits, which have an axis more than what is asked."""
    return any(METRICS[name].classes for name in task.metrics)


def _told(numbers: NDArray) -> list[float]:
    """Return numbers in nine digits, which tell any two of float32 apart."""
    return [float(f"{number:.9g}") for number in numbers]


def _by_answer(values: NDArray, asked: Mapping[str, Any], task: Task, counted: bool) -> NDArray:
    """Return (N, ...) of what a task gives for a batch of one row.

    It may have left the batch's axis, (1, L, ...), or laid several numbers of an element end to end. ``counted`` says
    that targets are ids: then its labels are not names of numbers.
    """
    if values.ndim == 1 and len(task.labels) > 1 and not (_logits(task) or counted):
        return values.reshape(-1, len(task.labels))  # of each element one after the other
    lengths = {np.shape(array)[0] for array in asked.values() if np.ndim(array) > 0}
    each = values.ndim > 1 + _logits(task) and len(values) == 1 and values.shape[1] in lengths
    named = values.ndim == 2 and values.shape[1] == len(task.labels)
    return values[0] if each and not named else values


def _ids(model: nn.Module) -> int | None:
    """Return how many token ids a model knows; None if it reads no tokens."""
    tables = [each for each in getattr(model, "encoder", model).modules() if isinstance(each, nn.Embedding)]
    return sum(table.num_embeddings for table in tables) or None


def _known(where: str, row: Mapping[str, Any], ids: int | None) -> None:
    for name in ("inputs", "inputs_2"):
        found = np.asarray(row.get(name, ()))
        if ids is None or not found.size or not np.issubdtype(found.dtype, np.integer):
            continue
        if not 0 <= found.min() <= found.max() < ids:
            raise UserError(
                f"{where}: '{name}' has ids from {found.min()} to {found.max()}",
                f"the model knows the ids 0 to {ids - 1}",
            )
