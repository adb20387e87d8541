"""Memory of CPU tensors while a function runs, for benches and for tests of what an operation keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

CPU = [torch.profiler.ProfilerActivity.CPU]


class Held(NamedTuple):
    """Bytes of CPU tensors beside those alive before.

    Attributes:
        after: Alive when the function returns, its result included.
        peak: The most alive at once.
    """

    after: int
    peak: int


def held(function: Callable[[], object]) -> Held:
    """Run a function and return what it held."""
    with torch.profiler.profile(activities=CPU, profile_memory=True) as profile:
        result = function()
    profiler: Any = (
        profile.profiler
    )  # the stubs know neither that it is there after a run nor the bytes of an event
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    del result
    return Held(now, highest)
