"""What a person sees while a run goes: one live bar and one line an evaluation, on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """Progress of data making and training.

    Args:
        quiet: Show nothing but errors.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=quiet,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._progress.stop()

    def say(self, *parts: object) -> None:
        """Print above the bar, if there still is a terminal: one that has gone ends no run."""
        with contextlib.suppress(OSError):
            self.console.print(*parts)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show long work before training; the form that tasks call."""
        self.bar(what, done, total)
        if done >= total:
            self.drop(what)

    def drop(self, what: str) -> None:
        """Take away the bar called ``what``, if there is one."""
        if what in self._bars:
            self._progress.remove_task(self._bars.pop(what))

    def bar(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar called ``what``, made at first sight."""
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total, completed=done, note=note)
        self._progress.update(self._bars[what], completed=done, total=total, note=note)


def figures(values: Mapping[str, float]) -> str:
    """Return metrics as ``mse 0.00341  nll -2.1``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
