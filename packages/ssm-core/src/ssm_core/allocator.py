"""Memory that a CPU has freed, kept for the next tensor."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1
_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of handing tensors above 32 MiB back to the system each time.

    glibc's malloc asks the system anew for every block of more than 32 MiB, and the system hands out zeroed pages one
    by one: a tensor can cost more to get than to compute (``docs/adr/0018-freed-memory.md`` has figures). From here on
    the main thread's blocks come from memory that stays, so the process stays as large as it once was.

    ``ssm`` calls this for every command, and so do the processes that it trains several seeds or a study in; a program
    of one's own may, before its first tensors. Variables in the environment that tune malloc, such as
    ``MALLOC_TRIM_THRESHOLD_``, or ``GLIBC_TUNABLES`` with ``glibc.malloc``, are left to have their way.

    Returns:
        Whether glibc's malloc was told: not on other systems. Another malloc that was preloaded goes its own way.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name in os.environ for name in _CHOSEN
    )
    if tuned or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    # Not a higher M_MMAP_THRESHOLD: older releases of glibc refuse one above 32 MiB, and none can be above 2 GiB.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
