"""The devices that the suite runs on, the same tests on each: `-m gpu` chooses CUDA."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `serpents`, which tests of the block share

# One thread a worker: the suite's tensors are tiny, and workers share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; none is visible to torch")
    return request.param
