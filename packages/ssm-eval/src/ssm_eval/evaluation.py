"""A model on a split: every row once, in order, whatever the batches and processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssm_core.evaluating import evaluating
from ssm_core.plugin.config import plain
from ssm_core.plugin.errors import UserError, did_you_mean
from ssm_core.protocols import Batch, Output, Progress, Split, Task
from ssm_core.run.data import changed, data_of
from ssm_core.run.folder import RunFolder, write_json
from ssm_eval.forward import each_tensor, forward
from ssm_eval.metrics import Mean, make_metrics
from ssm_eval.trained import find_device, load_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a split.

    Attributes:
        metrics: The task's loss, as ``loss``, and each of its metrics.
        n: Rows evaluated, over all processes.
        first: Output and batch of this process's first batch, on the CPU: the data of pictures.
    """

    metrics: dict[str, float]
    n: int
    first: tuple[Output, Batch]


def evaluate(
    model: nn.Module,
    task: Task,
    split: str | Split,
    *,
    batch_size: int,
    device: torch.device | str,
    precision: str = "float32",
    max_rows: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compute loss and metrics of a model on a split.

    Where ``torch.distributed`` is set up, every process has to call this: each takes every world-size-th row, and all
    get the same numbers. A task that carries state has it carried here from batch to batch, beginning with none; then a
    batch is the streams that its split runs in, whatever ``batch_size`` says.

    Args:
        model: Called with a batch, as :class:`ssm_core.model.SequenceModel` is; it stays where it is, and gets back
            the training modes it came with.
        task: Collates rows, computes the loss, names the metrics.
        split: Name of one of the task's splits, or a data set of one's own with the same rows.
        batch_size: Rows a batch, in each process.
        device: Where the model is; batches are moved there.
        precision: ``float32``, ``bf16`` or ``fp16``, as ``train.precision``; loss and metrics are of float32 outputs.
        max_rows: Stop after so many rows, over all processes.
        progress: Called as ``progress(what, done, total)``.

    Raises:
        UserError: If there is no such split, it has no rows, or fewer than there are processes.
    """
    name, data = _find(task, split)
    n = len(data) if max_rows is None else min(max_rows, len(data))
    if n < 1:
        raise UserError(f"{name} has no rows to evaluate", "look at `ssm data info TASK`")
    metrics = make_metrics(task.metrics, device, whose=type(task).__name__)
    mean_loss = Mean(device)
    carries = task.needs.carry_state
    batches = _streamed(data, n, name, batch_size) if carries else _dealt(n, name, batch_size)
    state, first, done = None, None, 0
    # no_grad rather than inference_mode: what a layer caches in it must still serve training afterwards.
    with evaluating(model), torch.no_grad():
        for rows in batches:
            batch = task.collate([data[row] for row in rows]).to(device)
            output = forward(model, batch, state, precision)
            state = output.state if carries else None
            mean_loss.update(*task.loss(output, batch))
            metrics.update(task.predictions(output, batch))
            first = first or (each_tensor(output, Tensor.cpu), batch.to("cpu"))
            done += len(rows)
            if progress is not None:
                progress(f"evaluating {name}", done, sum(map(len, batches)))
    assert first is not None
    return Evaluation({"loss": float(mean_loss.compute()), **metrics.compute()}, n, first)


def evaluate_run(
    run: Path | str,
    split: str = "test",
    overrides: Mapping[str, Any] | None = None,
    which: str = "best",
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run's model from its folder, also under task settings it was not trained with.

    Args:
        run: The run folder.
        split: Name of the split.
        overrides: Settings laid over the run's own, such as ``{"task": {"sample_rate": 0.3}}``.
        which: ``best`` or ``latest`` checkpoint.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        batch_size: Rows a batch; None takes ``train.eval_batch_size`` of the run.
        progress: Called as ``progress(what, done, total)``.

    Returns:
        ``{run, step, split, overrides, data, metrics, n, other_data, notes}``, also written to
        ``eval/<split>@<step>[-<hash>].json`` in the run folder, the hash being that of the overrides and of data that
        is not what the run began with. ``data`` is the split's provenance and fingerprint, None if it has none;
        ``other_data`` names the splits that are not what the run began with; ``notes`` are what the reader should
        know: other data, a result that could not be kept.

    Raises:
        UserError: If the folder is no run, has no checkpoint, or settings, split or device do not exist.
    """
    folder = RunFolder.open(run)
    changes: dict[str, Any] = plain(overrides or {})
    where = find_device(device)
    model, config, step = load_checkpoint(folder, which, changes)
    model.task.prepare(progress)
    _find(model.task, split, f"task {config.task.name}" if config.task else "")
    result = evaluate(
        model.to(where),
        model.task,
        split,
        batch_size=batch_size or config.train.eval_batch_size,
        device=where,
        precision=config.train.precision,
        progress=progress,
    )
    told, held = data_of(model.task), folder.data()
    # Settings of the task may ask for other data: then it is no surprise.
    other = {} if "task" in changes else changed(held, told)
    report = {
        "run": str(folder.path),
        "step": step,
        "split": split,
        "overrides": changes,
        "data": told[split],
        "metrics": result.metrics,
        "n": result.n,
        "other_data": list(other),
        "notes": [_other_data(name, held, told) for name in other],
    }
    _keep(folder, f"{split}@{step}{_suffix(changes, other)}.json", report)
    return report


def _other_data(split: str, held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    then, here = held[split]["provenance"], now[split]["provenance"]
    return f"the {split} split is not the data that the run began with; then: {then}; now: {here}"


def _keep(folder: RunFolder, name: str, report: dict[str, Any]) -> None:
    """Write a report into the run folder; where that cannot be done, the report itself says so."""
    file = folder.path / "eval" / name
    try:
        file.parent.mkdir(exist_ok=True)
        write_json(file, report)
    except OSError as error:
        report["notes"].append(f"the result is not kept: cannot make {file.parent}: {error.strerror}")
    except UserError as error:
        report["notes"].append(f"the result is not kept: {error.what}")


def _find(task: Task, split: str | Split, whose: str = "") -> tuple[str, Split]:
    """Return a split with its name; ``whose`` is the task's name, if it is a registered one."""
    if not isinstance(split, str):
        return "the given split", split
    splits = task.splits()
    if split not in splits:
        raise UserError(f"{whose or type(task).__name__} has no split '{split}'", did_you_mean(split, splits))
    return split, splits[split]


def _dealt(n: int, name: str, batch_size: int) -> list[range]:
    """Return this process's share of the rows, in batches."""
    rank, world = _place()
    if n < world:
        raise UserError(f"{name} has {n} rows, fewer than the {world} processes", "start fewer processes")
    rows = range(rank, n, world)
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _streamed(data: Split, n: int, name: str, batch_size: int) -> list[range]:
    """Return the rows in batches that continue each other: this process's streams, or all where no number is told."""
    streams = getattr(data, "streams", 0)
    if not streams:
        return [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    rank, world = _place()
    if streams < world:
        raise UserError(
            f"{name} has {streams} streams, fewer than the {world} processes", "start fewer processes"
        )
    n = max(n - n % streams, streams)  # every stream has as many rows
    return [range(start + rank, start + streams, world) for start in range(0, n, streams)]


def _place() -> tuple[int, int]:
    """Return rank and number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _suffix(overrides: Mapping[str, Any], other: Mapping[str, str]) -> str:
    """Return what tells a result from the run's own: a hash of its settings, and of data that is other data."""
    if not overrides and not other:
        return ""
    told = {**overrides, "": other} if other else overrides
    return "-" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:6]
