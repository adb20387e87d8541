"""What time a run takes, on a CPU or a GPU, and how fast its memory is."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SWEPT = 1 << 30
"""Bytes written before a timed run on a GPU: many times its caches, and a quarter of a millisecond of an H200."""


def copy_bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Return bytes a second, read and written, of copying a tensor far larger than the caches."""
    size = 1 << (31 if device.type == "cuda" else 28)
    source = torch.rand(size // 4, device=device)  # some chips copy zeros faster than numbers
    target = torch.empty_like(source)
    return 2 * size / min(stopwatch(lambda: target.copy_(source), device) for _ in range(repeats))


def stopwatch(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that something takes: of the host's clock, or on a GPU of the device's, between two events.

    On a GPU a large buffer is written before the first event. That puts what the last run left out of the caches, and
    it keeps the device busy while the host queues the run, so that its launches are not what is timed.
    """
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(SWEPT, dtype=torch.int8, device=device).zero_()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def milliseconds(seconds: float) -> float:
    """Return milliseconds to four figures: a kernel may take microseconds."""
    return float(f"{1e3 * seconds:.4g}")


def machine(device: torch.device) -> str:
    """Return what ran and on what, for the line above a table."""
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device.type}{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
