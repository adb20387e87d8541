"""Memory that a CPU has freed, kept for the next tensor."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of handing tensors above 32 MiB back to the system each time.

    glibc's malloc asks the system anew for every block of more than 32 MiB, and the system hands out zeroed pages one
    by one: a tensor costs more to get than to compute. Kept blocks make training steps with such tensors 1.3 to 1.8
    times as fast on a CPU (``docs/adr/0018-freed-memory.md`` has figures); the process stays as large as it once was.

    ``ssm`` calls this for every command, and so do the processes that it trains several seeds or a study in; a program
    of one's own may, before its first tensors. Variables of glibc in the environment (``MALLOC_TRIM_THRESHOLD_``,
    ``GLIBC_TUNABLES``, ...) are left to have their way.

    Returns:
        Whether it is so now: not on systems without glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
