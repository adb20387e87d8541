"""Idle OpenMP threads are sent home, and come back for the next operation of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import os, time
import torch
from ssm_core.opkit.openmp import send_home

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
x = torch.randn(1 << 20)
before = threads()
total = (x * 2).sum()
busy = threads()
assert busy > before, "torch started no thread of its own"
send_home()
end = time.monotonic() + 10
while threads() >= busy:
    assert time.monotonic() < end, "the idle thread is still there"
    time.sleep(0.01)
assert torch.equal((x * 2).sum(), total)
assert threads() == busy
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_idle_threads_go_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
