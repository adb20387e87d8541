"""Freed memory stays with the process that asked for it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from ssm_core.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""

_glibc = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")
needs_glibc = pytest.mark.skipif(not _glibc, reason="other allocators decide for themselves")


def second_time(word: str, **variables: str) -> tuple[str, int]:
    """What keeping said, and the page faults of a second block of 64 MiB, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, word],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    said, faults = done.stdout.split()
    return said, int(faults)


@needs_glibc
def test_a_block_that_was_freed_is_had_again_without_a_page_fault():
    huge_pages = 64 // 2  # the fewest faults that a fresh block can take
    assert second_time("leave")[1] >= huge_pages
    said, faults = second_time("keep")
    assert said == "True"
    assert faults < huge_pages


@needs_glibc
@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_is_left(variable):
    value = {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}.get(variable, "131072")
    said, faults = second_time("keep", **{variable: value})
    assert said == "False"
    assert faults >= 64 // 2
