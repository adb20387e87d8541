"""How a run can end badly."""

from __future__ import annotations

from pathlib import Path


class TrainingFailed(Exception):
    """A run stopped before its end; what it had saved is kept.

    Args:
        message: What happened, where, and what to do next.
        runs: The run folder; of several seeds every folder there is, those that finished too, in their order.
    """

    def __init__(self, message: str, *runs: Path) -> None:
        super().__init__(message)
        self.runs = runs

    @property
    def run(self) -> Path:
        """The run folder; the first of several."""
        return self.runs[0]
