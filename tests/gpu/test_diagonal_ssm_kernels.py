"""diagonal_ssm on Triton kernels against the time loop, values and gradients."""

from __future__ import annotations

import pytest
import torch

from ssm_core.ops.diagonal_ssm import diagonal_ssm


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("per_step", "method"), [(False, "zoh"), (True, "zoh"), (True, "bilinear")])
def test_equals_the_time_loop(device, per_step, method, packed):
    torch.manual_seed(0)
    length, H, N = 7, 2, 3
    cu_seqlens = torch.tensor([0, 2, 2, 7], dtype=torch.int32, device=device) if packed else None
    batch, rows = (1, 3) if packed else (2, 2)
    A = torch.complex(-torch.rand(N, dtype=torch.float64), torch.randn(N, dtype=torch.float64))
    dt = torch.rand((batch, length, N) if per_step else N, dtype=torch.float64)
    B, C, state = (torch.randn(shape, dtype=torch.complex128) for shape in ((N, H), (H, N), (rows, N)))
    u, D = torch.randn(batch, length, H, dtype=torch.float64), torch.randn(H, dtype=torch.float64)
    outputs = []
    for backend in ("triton", "reference"):
        leaves = [x.to(device, copy=True).requires_grad_() for x in (u, dt, A, B, C, D, state)]
        y, last = diagonal_ssm(*leaves, discretization=method, cu_seqlens=cu_seqlens, backend=backend)
        loss = y.square().sum() + last.abs().square().sum()
        outputs.append([y, last, *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*outputs, strict=True):
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max().clamp(min=1.0)
