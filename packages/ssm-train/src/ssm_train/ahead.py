"""Batches read by the training process itself, or ahead of it by other processes; the same ones, in the same order."""

from __future__ import annotations

import io
import pickle
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch, Split, Task
from ssm_train.interrupt import HANGUP

STOPS = {signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP])}
"""Signals that the training process answers, for its workers too: it saves, and then ends them."""

HAS_MASK = hasattr(signal, "pthread_sigmask")
"""Windows has none; workers there start afresh, with no handler of this process."""


class Wanted(NamedTuple):
    """A batch to be read.

    Attributes:
        epoch: The epoch, from 0.
        rows: Rows of its split.
    """

    epoch: int
    rows: list[int]


class Reader:
    """Rows of a training split as batches.

    Args:
        task: Collates rows.
        split: The split of the first epoch. If it has a method ``of_epoch(epoch)``, that gives the split of another.
    """

    def __init__(self, task: Task, split: Split) -> None:
        self.task = task
        self._first: Any = split
        self._split, self._epoch = split, 0

    def read(self, wanted: Wanted) -> Batch:
        """Return a batch, on the CPU."""
        if wanted.epoch != self._epoch and hasattr(self._first, "of_epoch"):
            self._split, self._epoch = self._first.of_epoch(wanted.epoch), wanted.epoch
        return self.task.collate([self._split[row] for row in wanted.rows])


class Ahead:
    """Batches that other processes read ahead.

    The workers of :class:`torch.utils.data.DataLoader` are copies of this process on Linux (elsewhere as the platform
    has it, and task and split have to be picklable there); each has one thread. Signals that end a run spare them;
    :meth:`close` does, and so does the end of this process.

    Args:
        reader: Reads a batch.
        order: The batches to come. It is run through here, as far ahead as the workers are.
        workers: Number of processes.
    """

    def __init__(self, reader: Reader, order: Iterable[Wanted], workers: int) -> None:
        loader = DataLoader(
            _Answers(reader),
            batch_size=None,  # what is asked for is a batch already
            sampler=order,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_ignore_stops,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            # It draws a seed for its workers; from torch's own generator, dropout would be another with workers.
            generator=torch.Generator(),
        )
        with _stops_held_back(), warnings.catch_warnings():
            # Python 3.12 and later warn of any fork beside threads: a worker collates, and touches none of their locks.
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            self._answers: Any = iter(loader)

    def take(self, wanted: Wanted) -> Batch:
        """Return the next batch of the order, on the CPU.

        Args:
            wanted: What it has to be.

        Raises:
            UserError: As the task raised it; any other error is raised with the worker's traceback in its message.
            RuntimeError: If it is another batch, or a worker died.
        """
        read, answer = cast("tuple[Any, Any]", next(self._answers, (None, None)))
        if read != wanted:
            raise RuntimeError(f"{wanted} is asked for, and the order that is followed has {read} here")
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """End the workers; what they have read is dropped. One that hangs is given five seconds."""
        for worker in self._answers._workers:
            worker.terminate = worker.kill  # the loader's last resort, and SIGTERM means nothing to them
        self._answers._shutdown_workers()


class _Answers(Dataset[Any]):
    """What a worker is asked for: a batch together with its name, or why there is none."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, wanted: Wanted) -> tuple[Wanted, Batch | UserError]:
        try:
            batch = self.reader.read(wanted)
        except UserError as error:
            return wanted, _portable(error)
        if reason := _unfit(batch):
            what = f"a batch of {type(self.reader.task).__name__} cannot be handed over by a worker: {reason}"
            return wanted, UserError(what, "--set train.workers=0")
        return wanted, batch


class _AllButTensors(pickle.Pickler):
    """Tensors take another road, as shared memory, on which torch loses what it puts off."""

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, Tensor):
            return None
        if obj.is_conj() or obj.is_neg() or obj.grad_fn is not None:
            raise pickle.PicklingError(
                "a tensor is conjugate or negative in name only (resolve_conj, resolve_neg) or has a gradient (detach)"
            )
        return "tensor"


def _unfit(batch: Batch) -> str:
    """Say why a batch cannot be pickled; nothing if it can. Seen on its way only, it would be waited for forever."""
    try:
        _AllButTensors(io.BytesIO()).dump(batch)
    except Exception as error:  # noqa: BLE001 - a foreign class: anything may come out
        return str(error)
    return ""


def _portable(error: UserError) -> UserError:
    """Return an error in a form that arrives: itself, unless it is of a class that does not survive pickling."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a foreign class: anything may come out
        return UserError(error.what, error.hint)


def _as_it_is(answer: Any) -> Any:
    return answer


def _ignore_stops(worker: int) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if HAS_MASK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def _stops_held_back() -> Iterator[None]:
    """Let signals wait while the block runs: a worker would meet them before it knows to ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS) if HAS_MASK else set()
    try:
        yield
    finally:
        if HAS_MASK:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
