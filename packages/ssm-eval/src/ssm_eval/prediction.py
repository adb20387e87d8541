"""What a trained model answers to rows of the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_core.run.data import changed, data_of
from ssm_core.run.folder import RunFolder
from ssm_eval.answering import foretells, gives_logits, predict
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
            width = math.prod(row[key].shape[1:])  # -1 would not do for a row without answers
            flat = row[key].reshape(len(row[key]), width)
            for index in range(width):
                columns[self._column(key, index, width)] = _told(flat[:, index])
        return columns

    def _column(self, key: str, index: int, width: int) -> str:
        if len(self.labels) == width:
            return self.labels[index] if key == "prediction" else f"{key} of {self.labels[index]}"
        return key if width == 1 else f"{key}_{index}"


def predict_run(
    run: Path | str,
    input: Path | str | Iterable[Mapping[str, Any]],
    *,
    overrides: Mapping[str, Any] | None = None,
    which: str = "best",
    device: str = "auto",
    progress: Progress | None = None,
) -> Predictions:
    """Ask a run's model about rows of one's own.

    Args:
        run: The run folder.
        input: A file as :func:`ssm_eval.questions.read_rows` reads it, or rows: dicts of arrays such as
            :func:`ssm_data.load` gives, without ``targets``. A row may have ``name``, a word for it.
        overrides: Settings laid over the run's own, such as ``{"task": {"path": "where/it/is/now.csv"}}``.
        which: ``best`` or ``latest`` checkpoint.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        progress: Called as ``progress(what, done, total)``.

    Raises:
        UserError: If the folder is no run, has no checkpoint, its training data is not there or not what it was, or
            the rows are not what its task takes.
    """
    folder, where = RunFolder.open(run), find_device(device)
    model, config, step = load_checkpoint(folder, which, plain(overrides or {}))
    task, name = model.task, config.task.short if config.task else ""
    task.prepare(progress)
    # What a model takes and what its answers are called comes from them: classes, channels, vocabulary.
    if "train" in changed(folder.data(), data_of(task)):
        raise UserError(
            f"the data of {name} is not what {folder.path} was trained on, so what it takes and says may not mean "
            "what it did",
            "bring back that data (data.json in the run says where it came from), or train anew",
        )
    of_file = isinstance(input, Path | str)
    rows = read_rows(Path(input).expanduser() if of_file else input, task, name)
    source = str(input) if of_file else ""
    answers = predict(
        model.to(where),
        task,
        rows,
        device=where,
        precision=config.train.precision,
        progress=progress,
        whose=source,
    )
    if not foretells(task):  # nobody knows the targets: they are blanks that stand for what is asked
        answers = [{key: each for key, each in row.items() if key != "target"} for row in answers]
    return Predictions(
        run=str(folder.path),
        step=step,
        input=source,
        names=[row.get("name", index) for index, row in enumerate(rows)],
        rows=answers,
        classes=gives_logits(task),
        labels=list(task.labels),
    )


def _told(numbers: NDArray) -> list[float] | list[int]:
    """Return numbers in nine digits, which tell any two of float32 apart; whole numbers as they are."""
    if not np.issubdtype(numbers.dtype, np.floating):
        return numbers.tolist()
    return [float(f"{number:.9g}") for number in numbers]
