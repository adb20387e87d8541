"""How a run can end badly."""

from __future__ import annotations

from pathlib import Path


class TrainingFailed(Exception):
    """A run stopped before its end; what it had saved is kept.

    Args:
        message: What happened, where, and what to do next.
        run: The run folder.
    """

    def __init__(self, message: str, run: Path) -> None:
        super().__init__(message)
        self.run = run
