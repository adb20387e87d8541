"""Standard output that can fail: a full disk is told in one line, a reader that has read enough is no failure."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from ssm_lab import console


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Hold standard output while the block runs, and write all of it before the block is left.

    Raises:
        SystemExit: With status 0 if the reader has gone (``| head``), with 1 if it cannot be written.
    """
    held, sys.stdout = sys.stdout, _Guarded(sys.stdout)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            sys.stdout = held


class _Guarded:
    """A stream whose own errors end the program: they come from no other file, so the message can name it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._leave(error)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._leave(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _leave(self, error: OSError) -> NoReturn:
        # What is still held back would be written, and fail again, when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        self._stream = io.StringIO()
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        console.fail(f"cannot write to standard output: {error.strerror or error}")
        sys.exit(1)
