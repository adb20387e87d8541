"""SIGINT and SIGTERM as a flag that the loop reads between steps; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the run has been asked to stop, and by what."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a flag while the block runs.

    Outside the main thread (a notebook's worker) signals cannot be caught, and the flag stays down.
    """
    flag = Interrupt()

    def handler(number: int, frame: FrameType | None) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.name = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)
