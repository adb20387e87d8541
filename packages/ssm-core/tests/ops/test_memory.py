"""Peak memory of forward and backward, operation by operation, against what its page promises: no state of every step.

Bytes are counted in activations, (B, L, D) of the operands' precision: output and its gradient, the gradients of the
operands, and what a form works in. `selective_scan` has a test of its own, and so have the forms' special cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.ops import (
    cauchy,
    causal_conv1d,
    diagonal_ssm,
    fft_conv,
    linear_scan,
    ssd_scan,
    vandermonde,
)

B, L, D, N = 2, 4096, 32, 32
FLOATS = B * L * D
"""Numbers of one activation."""


class Memory(NamedTuple):
    """A call and its operands; the most numbers it may hold beside them, and how many a careless form would hold."""

    call: Callable[..., Any]
    operands: list[Tensor]
    allowed: float
    careless: int


def real(*shape: int) -> Tensor:
    return torch.rand(shape) * 0.5


def wide(*shape: int) -> Tensor:
    return torch.complex(-torch.rand(shape), torch.rand(shape))


def kernel(v: Tensor, log_x: Tensor, backend: str) -> Tensor:
    return vandermonde(v, log_x, L, backend=backend)


def cases() -> dict[str, Memory]:
    """Complex numbers count twice. A scan by doubling keeps its operands at each of log2 L levels: 2 * 12 here."""
    u, heads, p, n, q = real(B, L, D), 4, 16, 64, 64
    x, matrices = B * L * heads * p, B * L * n
    return {
        "linear_scan": Memory(linear_scan, [real(B, L, D), u], 6.5 * FLOATS, 24 * FLOATS),
        "linear_scan, complex": Memory(
            linear_scan, [torch.exp(wide(B, L, D)), wide(B, L, D)], 15 * FLOATS, 48 * FLOATS
        ),
        "linear_scan, one decay": Memory(linear_scan, [real(D), u], 5.5 * FLOATS, 24 * FLOATS),
        # The states (B, L, N), complex, six times: N = D here; a careless form has inputs (B, L, N, D) of each step.
        "diagonal_ssm": Memory(
            diagonal_ssm, [u, real(N), wide(N), wide(N, D), wide(D, N)], 14 * FLOATS, 2 * N * FLOATS
        ),
        # x, B, C and their gradients a few times, the state of each chunk, the mixing (Q, Q) of chunks.
        "ssd_scan": Memory(
            ssd_scan,
            [real(B, L, heads, p), real(B, L, heads), -real(heads), real(B, L, 1, n), real(B, L, 1, n)],
            9 * x + 4 * matrices + 4 * x // q * n + 3 * B * L * heads * q,
            x * n,
        ),
        "causal_conv1d": Memory(causal_conv1d, [u, real(D, 4)], 5.5 * FLOATS, 8 * FLOATS),
        "fft_conv": Memory(fft_conv, [u, real(D, L)], 9 * FLOATS, L * FLOATS),
        "vandermonde": Memory(kernel, [wide(D, N), wide(D, N)], 10 * D * L, 2 * N * D * L),
        "cauchy": Memory(cauchy, [wide(D, N), 1j * torch.rand(L), wide(D, N) - 2], 20 * D * L, 4 * N * D * L),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_peak_stays_within_the_formula(name: str, backend: str, peak: Callable) -> None:
    memory = cases()[name]
    try:
        dispatch.resolve(name.partition(",")[0], backend, torch.device("cpu"))
    except RuntimeError as error:
        pytest.skip(str(error))
    leaves = [x.requires_grad_() for x in memory.operands]

    def once() -> None:
        found = memory.call(*leaves, backend=backend)
        out = found if isinstance(found, Tensor) else found[0]
        (out.real if out.is_complex() else out).sum().backward()

    once()  # compiles
    assert memory.allowed / 5 < peak(once) / 4 < memory.allowed < memory.careless / 1.4
