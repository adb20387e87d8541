"""Memory of smr_gate against what its page promises: of the activations nothing is kept but the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssm_core.held import held
from ssm_core.opkit.dispatch import numba_problem
from ssm_smr import smr_gate

B, L, H, TAU = 2, 4096, 32, 4


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("dense", [False, True])
def test_memory_is_a_few_activations_whatever_the_taps(backend, dense):
    """In activations (B, L, H), beside u: after forward the output alone, of a dense gate its sigmoid too.

    At the peak of backward a fused loop holds output and gradient, the others what a convolution works in.
    """
    if backend == "numba" and numba_problem():
        pytest.skip(numba_problem())
    shapes = (B, L, H), (H, H, TAU) if dense else (H, TAU), (H,)
    u, weight, bias = (torch.randn(shape, requires_grad=True) for shape in shapes)

    def forward() -> Tensor:
        return smr_gate(u, weight, bias, backend=backend)[0]

    forward().sum().backward()  # compiles
    kept, _ = held(forward)
    _, peak = held(lambda: forward().sum().backward())
    assert kept < (2.1 if dense else 1.1) * u.nbytes
    # Ordinary autograd would keep a product for each of the taps, and the sum, the sigmoid and u padded.
    assert peak < (3.0 if backend == "numba" and not dense else 8.0) * u.nbytes
