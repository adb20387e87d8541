"""How a run can end badly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class TrainingFailed(Exception):
    """A run stopped before its end; what it had saved is kept.

    Args:
        message: What happened, where, and what to do next.
        runs: The run folder; of several seeds every folder there is, those that finished too, in their order.

    Attributes:
        state: What ``status.json`` then says of the run.
    """

    state = "failed"

    def __init__(self, message: str, *runs: Path) -> None:
        super().__init__(message)
        self.runs = runs

    @property
    def run(self) -> Path:
        """The run folder; the first of several."""
        return self.runs[0]


class RunInterrupted(TrainingFailed):
    """A run that Ctrl-C or another signal stopped; nothing is wrong with it, and it can go on."""

    state = "interrupted"


def interrupted(run: Path, signal: str, step: int, total: int) -> RunInterrupted:
    """Return the ending of a run that a signal stopped between two steps, its state saved."""
    message = f"interrupted by {signal} after step {step} of {total}; everything is saved"
    return RunInterrupted(f"{message}\n  go on with --resume {run}", run)


def cut_short(run: Path, step: int, total: int) -> RunInterrupted:
    """Return the ending of a run that a second signal stopped at once, with nothing more saved."""
    saved = (run / "latest.json").is_file()
    kept = f"go on from its last checkpoint with --resume {run}" if saved else "no checkpoint was saved yet"
    return RunInterrupted(f"interrupted at once after step {step} of {total}\n  {kept}", run)


def not_finite(
    run: Path, step: int, place: tuple[int, int], rows: Sequence[int], what: str
) -> TrainingFailed:
    """Return the ending of a run whose loss or gradient is not finite.

    Args:
        run: The run folder.
        step: Number of the step.
        place: Number of its epoch, and of its batch in that.
        rows: Indices of its rows.
        what: The loss, and which tensor first went wrong.
    """
    saved = (run / "latest.json").is_file()
    kept = "the last good checkpoint is kept" if saved else "no checkpoint had been saved yet"
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    where = f"step {step} (epoch {place[0]}, batch {place[1]}, rows {shown})"
    return TrainingFailed(
        f"{where} is not finite: {what}\n  {kept}; try a lower optim.lr or train.clip_norm=1", run
    )


def no_target(run: Path, epoch: int, steps: int) -> TrainingFailed:
    """Return the ending of a run that was given no target in all steps of an epoch."""
    message = (
        f"no batch of epoch {epoch} has a target: the task's loss gave weight 0 in all of its {steps} steps"
    )
    hint = "see that training rows have targets, and not all of them masked, ignored (-100) or missing"
    return TrainingFailed(f"{message}\n  {hint}", run)
