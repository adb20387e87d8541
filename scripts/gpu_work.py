"""What the slices of work on a GPU share: a deadline, choosing pieces, running commands, writing results."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from workspace import ROOT

T = TypeVar("T")

LEAVING = 20.0
"""Seconds that a process which is told to stop is given to save what it has."""

OUT_OF_TIME = 3
"""Exit status of a slice that was not finished."""


@dataclass
class Work:
    """A slice of work under way.

    Attributes:
        out: Folder of the results; made if it is not there.
        seconds: Time for all of it.
        which: "K/N", or a word that the names of the pieces hold.
        listing: Print the pieces and run nothing.
        processes: Side by side; 0 leaves it to the slice.
        carried: Folder of the wheels and of what earlier slices left.
        began: Clock at the start.
        environment: Of the commands.
    """

    out: Path
    seconds: float
    which: str = "1/1"
    listing: bool = False
    processes: int = 0
    carried: Path = ROOT / "dist" / "gpu"
    began: float = field(default_factory=time.monotonic)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        """Make the folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment["PYTHONUNBUFFERED"] = "1"

    @property
    def left(self) -> float:
        """Seconds that a command may still take."""
        return self.began + self.seconds - LEAVING - time.monotonic()

    def chosen(self, pieces: Sequence[T], name: Any = str) -> list[T]:
        """Return the pieces that `which` asks for.

        Raises:
            SystemExit: If it asks for none.
        """
        if match := re.fullmatch(r"(\d+)/(\d+)", self.which):
            part, parts = int(match[1]), int(match[2])
            if not 1 <= part <= parts:
                raise SystemExit(f"{self.which}: the first number goes from 1 to the second")
            found = list(pieces[part - 1 :: parts])
        else:
            found = [piece for piece in pieces if self.which in name(piece)]
        if not found:
            raise SystemExit(f"nothing to do for {self.which!r}; --list says what there is")
        return found

    def run(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        keep: Path | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> int | None:
        """Run a command in the root of the workspace until it ends or time does.

        Args:
            command: What to run.
            log: File to which its errors, and its output if nobody keeps that, are added.
            keep: File that takes its output.
            stop: What tells it to save what it has and end.

        Returns:
            Its exit status, or None if it was stopped: by that signal first, then without asking.
        """
        with log.open("ab") as errors, (keep or log).open("wb" if keep else "ab") as output:
            shown = " ".join(str(part).partition("\n")[0] for part in command)
            errors.write(f"\n+ {shown}\n".encode())
            errors.flush()
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            try:
                return process.wait(timeout=max(1.0, self.left))
            except subprocess.TimeoutExpired:
                return _stop(process, stop)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def write(self, name: str, value: Any) -> None:
        """Write a result as JSON."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        (self.out / name).write_text(text + "\n", encoding="utf-8")


def _stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(timeout=LEAVING - 5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(file: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
