from __future__ import annotations

import os


def pytest_configure() -> None:
    # The tensors are tiny: more threads than one only get in the way of the other workers.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
