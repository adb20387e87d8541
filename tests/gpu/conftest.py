"""Triton kernels, on a GPU where there is one, else in Triton's interpreter: the same tests in both.

The interpreter has to be switched on before Triton is imported, so without a GPU these tests run only in a process
started with TRITON_INTERPRET=1; `tests/integration/test_triton_interpreter.py` starts one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is used: cuBLAS is deterministic only with a workspace of fixed size, and without it says so by an error.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    torch.set_num_threads(1)  # its tensors are tiny: more threads than one only get in each other's way


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" in item.path.as_posix() and not INTERPRETED:
            item.add_marker(pytest.mark.gpu)  # skipped where there is no CUDA device


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run. Keep sizes small: the interpreter takes about 0.3 ms an element."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")
