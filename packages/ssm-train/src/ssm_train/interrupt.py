"""SIGINT, SIGTERM and SIGHUP as a flag that the loop reads between steps; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)
"""What the processes of a terminal get when it closes; not on Windows."""


class Interrupt:
    """Whether the run has been asked to stop, and by what."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a flag while the block runs.

    A SIGHUP that is ignored, as under nohup, stays so. Outside the main thread (a notebook's worker)
    signals cannot be caught, and the flag stays down.
    """
    flag = Interrupt()

    def handler(number: int, frame: FrameType | None) -> None:
        if not flag:
            flag.name = signal.Signals(number).name
        elif number != HANGUP:  # of those a closing terminal may send several
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _heeded() -> list[int]:
    """Return the signals that stop a run."""
    if HANGUP is None or signal.getsignal(HANGUP) == signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, HANGUP]
