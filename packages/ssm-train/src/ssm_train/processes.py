"""Child processes that do one piece of work each, side by side: one a core, or one a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ssm_train.interrupt import HANGUP, Interrupt

INTERVAL = 0.2
"""Seconds between two looks at the children."""

WATCH = 1.0
"""Seconds between two looks of a child at its parent."""


class Child:
    """A Python process that reads an order and writes an answer, both JSON.

    Args:
        entry: ``package.module:function``, called there with the paths of order and answer.
        folder: Where order and answer are; made if need be.
        order: Plain data.
        log: File that the process's output is added to; ``log`` in the folder if not given.
        environment: Environment variables of its own.

    Attributes:
        process: The process, once started.
        answer: What it wrote, once it is gone.
        error: Why that is no good answer, in the child's own words if it left any; empty otherwise.
    """

    def __init__(
        self,
        entry: str,
        folder: Path,
        order: Mapping[str, Any],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.entry, self.folder, self.order, self.log = entry, folder, order, log or folder / "log"
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.answer: dict[str, Any] = {}
        self.error = ""

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process with some environment variables more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        order, answer = self.folder / "order.json", self.folder / "answer.json"
        order.write_text(json.dumps(self.order))
        module, _, function = self.entry.partition(":")
        code = (
            "import sys; from ssm_core.allocator import keep_freed_memory; keep_freed_memory(); "
            f"from ssm_train.processes import end_with; end_with({os.getpid()}); "
            f"from {module} import {function}; {function}(sys.argv[1], sys.argv[2])"
        )
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(order), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment, **environment},
                # A session of its own: Ctrl-C in the terminal reaches the parent alone, which passes it on once.
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Say whether the process is gone; take its answer then, or why there is none, as ``error``."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        file = self.folder / "answer.json"
        self.answer = json.loads(file.read_text()) if file.is_file() else {}
        if "error" in self.answer or not self.answer:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-5:]
            self.error = self.answer.get("error") or "\n  ".join([f"ended with status {code}", *lines])
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is there to get it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class Piece(Protocol):
    """A piece of work."""

    @property
    def child(self) -> Child:
        """The process that does it."""
        ...


P = TypeVar("P", bound=Piece)


class Foreman(Protocol[P]):
    """Who hands out the pieces and hears of them."""

    def take(self) -> P | None:
        """Return the next piece, or None if there is none just now."""
        ...

    def waiting(self) -> bool:
        """Say whether there may be more."""
        ...

    def look(self, piece: P) -> None:
        """Be told that a piece is still being worked at."""
        ...

    def done(self, piece: P) -> None:
        """Be told that the process of a piece has ended."""
        ...

    def stopping(self, name: str) -> None:
        """Be told that a signal of this name came, and that all processes are asked to save and stop."""
        ...


def work(foreman: Foreman[P], workers: int, gpus: Sequence[str], interrupt: Interrupt) -> None:
    """Keep processes busy until all is done, or a signal has been passed on and answered.

    Args:
        foreman: Hands out the work.
        workers: Processes at once.
        gpus: Names for ``CUDA_VISIBLE_DEVICES``, taken in turn; none leaves the variable alone.
        interrupt: Raised by SIGINT, SIGTERM or SIGHUP.
    """
    running: dict[int, P] = {}
    passed_on = False
    try:
        while running or (foreman.waiting() and not interrupt):
            for slot in sorted(set(range(workers)) - running.keys()) if not interrupt else ():
                piece = foreman.take()
                if piece is None:
                    break
                running[slot] = piece
                piece.child.start({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
            if interrupt and not passed_on:
                passed_on = True
                foreman.stopping(interrupt.name)
                for piece in running.values():
                    piece.child.send(signal.SIGTERM)
            for slot, piece in list(running.items()):
                foreman.look(piece)
                if piece.child.ended():
                    del running[slot]
                    foreman.done(piece)
            time.sleep(INTERVAL)
    finally:
        for piece in running.values():  # a second signal, or an error here: none is left behind
            piece.child.send(signal.SIGKILL)


def end_with(parent: int) -> None:
    """Have this process asked to save and stop, by SIGHUP, once its parent is gone, however that ended.

    No other SIGHUP comes here: in a session of its own it has no terminal. And unlike a second SIGTERM, one after the
    parent's SIGTERM cuts nothing short.
    """
    if HANGUP is None:
        return
    hangup = HANGUP
    signal.signal(hangup, signal.SIG_DFL)  # it may be ignored in the parent, as under nohup

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os.kill(os.getpid(), hangup)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def gpus() -> list[str]:
    """Return what names each GPU in ``CUDA_VISIBLE_DEVICES``, those it hides left out."""
    import torch

    count = torch.cuda.device_count()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in shown.split(",")][:count] if shown else [str(i) for i in range(count)]


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
