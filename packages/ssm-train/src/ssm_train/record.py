"""What a run writes while it goes: metric rows, a log, its heartbeat, and a mirror for trackers."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from ssm_core.plugin.errors import UserError, install
from ssm_core.run.folder import RESUMED, RunFolder

HEARTBEAT_SECONDS = 5.0


class Recorder:
    """Appends to ``metrics.jsonl`` and ``log.txt`` and keeps ``status.json`` fresh.

    Args:
        run: The run folder.
        tracker: ``none`` or ``tensorboard``.
        wall: Seconds that earlier parts of the run took.
    """

    def __init__(self, run: RunFolder, tracker: str = "none", wall: float = 0.0) -> None:
        self.run = run
        self._began = time.monotonic() - wall
        self._beat = 0.0
        torn = run.metrics_file.is_file() and not run.metrics_file.read_bytes().endswith(b"\n")
        self._metrics = run.metrics_file.open("a", encoding="utf-8", buffering=1)
        if torn and self._metrics.tell():
            self._metrics.write("\n")  # a kill left half a row: close it, readers skip it
        self._log = (run.path / "log.txt").open("a", encoding="utf-8", buffering=1)
        self._board = _tensorboard(run) if tracker == "tensorboard" else None

    @property
    def wall(self) -> float:
        """Seconds of training so far, resumed parts included."""
        return time.monotonic() - self._began

    def metrics(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Append one row a value."""
        for name, value in values.items():
            self._row(step, epoch, split, name, value)
            if self._board is not None:
                self._board.add_scalar(f"{split}/{name}", value, step)

    def resumed(self, step: int, epoch: int) -> None:
        """Note that the run goes on after a step: rows of later steps, written before, no longer count."""
        self._row(step, epoch, *RESUMED, step)

    def _row(self, step: int, epoch: int, split: str, name: str, value: float) -> None:
        # JSON has no number that is not finite; readers take null for one.
        told = value if math.isfinite(value) else None
        row = {"step": step, "epoch": epoch, "split": split, "name": name, "value": told}
        self._metrics.write(json.dumps({**row, "wall": round(self.wall, 3)}) + "\n")

    def log(self, text: str) -> None:
        """Append a line to the log, with the time."""
        self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")

    def beat(self, **fields: Any) -> None:
        """Refresh the status of a running run, at most every few seconds."""
        now = time.monotonic()
        if now - self._beat >= HEARTBEAT_SECONDS:
            self._beat = now
            self.run.write_status("running", **fields)

    def close(self) -> None:
        """Flush and close all files."""
        self._metrics.close()
        self._log.close()
        if self._board is not None:
            self._board.close()


def check_tracker(tracker: str) -> None:
    """Check that a tracker is installed.

    Raises:
        UserError: If it is not.
    """
    if tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "train.tracker = tensorboard needs the package tensorboard",
            install("'ssm-train[tensorboard]'"),
        )


def _tensorboard(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"))
