"""Sending home torch's idle OpenMP threads, which otherwise spin on the cores that numba's kernels want.

After a parallel region the threads of GNU's runtime wait for the next one in a busy loop of milliseconds. A kernel on
threads of our own, started right after an operation of torch, so has to share every core but one with a loop that
does nothing, and takes up to twice as long.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

_SOFT = 1
"""`omp_pause_soft`: the threads go, everything else the runtime knows stays; the next region starts new ones."""


def send_home() -> None:
    """End the idle OpenMP threads of the calling thread, where the runtime can (OpenMP 5, Linux); else do nothing."""
    _pause()(_SOFT)


@cache
def _pause() -> Callable[[int], int]:
    """`omp_pause_resource_all` of the runtime that torch has loaded."""
    with contextlib.suppress(OSError):
        mapped = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
        files = {fields[-1] for fields in mapped if len(fields) > 5 and "omp" in Path(fields[-1]).name}
        for file in sorted(files):
            with contextlib.suppress(OSError, AttributeError):
                pause = ctypes.CDLL(file).omp_pause_resource_all
                pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
                return pause
    return lambda kind: 0
