"""The operations at sizes that fill a GPU, beside implementations that run on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ssm_core.bench.harness import Case
from ssm_core.bench.kernels import gpu_peers
from ssm_core.bench.kernels.cases import (
    cauchy_kernel,
    complex_scan,
    conv,
    diagonal,
    long_conv,
    real_scan,
    selective,
    ssd,
    vandermonde_kernel,
)


def large_cases(*, on_gpu: bool) -> Iterator[Case]:
    """Yield every operation at its large sizes, each operand many times the caches, and then at 50 steps.

    Widths and lengths are those of Mamba's and Mamba-2's layers with 130M parameters and of the Long Range Arena.

    Args:
        on_gpu: Add the implementations that need a GPU, if they are installed.
    """
    for case in _cases():
        rivals = gpu_peers.of(case) if on_gpu else []
        yield replace(
            case,
            peers={**case.peers, **{rival.name: rival.checked for rival in rivals}},
            native={rival.name: (rival.timed, rival.turn) for rival in rivals if rival.turn},
        )


def _cases() -> Iterator[Case]:
    yield selective(2048, width=1536, batch=8)
    yield real_scan(2048, batch=8, width=1536)
    yield real_scan(16384, batch=8, width=512)
    yield complex_scan(4096, batch=32, width=256)
    yield complex_scan(16384, batch=32, width=64)
    yield diagonal(4096, batch=32, width=256)
    yield diagonal(16384, batch=32, width=256)
    yield ssd(2048, batch=8, heads=24, n=128)
    yield conv(2048, batch=8, width=1536)
    yield long_conv(4096, batch=32)
    yield long_conv(16384, batch=32)
    yield vandermonde_kernel(1024, length=16384)
    yield cauchy_kernel(1024, frequencies=8193)
    yield selective(50, width=64, batch=32)
    yield diagonal(50, batch=32, width=30, n=8)
