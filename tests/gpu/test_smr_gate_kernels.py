"""smr_gate on the GPU against its time loop: values and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

pytest.importorskip("triton")

from ssm_smr import smr_gate
from ssm_smr.ops.smr_gate import on_triton

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def operands(device: torch.device, length: int, tau: int, *, dense: bool, packed: bool, state: bool) -> dict:
    """Arguments in double precision; a pack has empty, one-step and short sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), min(3, length), max(min(3, length), length // 2), length]
    batch, rows, h = (1, len(offsets) - 1, 5) if packed else (2, 2, 5)
    shapes = {"u": (batch, length, h), "weight": (h, h, tau) if dense else (h, tau), "bias": (h,)}
    if state:
        shapes["initial_state"] = (rows, tau - 1, h)
    found = {name: torch.randn(shape, dtype=torch.float64).to(device) for name, shape in shapes.items()}
    return found | ({"cu_seqlens": torch.tensor(offsets, dtype=torch.int32, device=device)} if packed else {})


def results(arguments: dict, dtype: torch.dtype, backend: str) -> list[Tensor]:
    """Outputs and gradients, for fixed pseudo-random gradients of the outputs."""
    leaves = {k: x.to(dtype).requires_grad_() for k, x in arguments.items() if x.is_floating_point()}
    outputs = smr_gate(**{**arguments, **leaves}, gate_scale=1.7, backend=backend)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), grads, materialize_grads=True)]


def check(arguments: dict, dtype: torch.dtype) -> None:
    got = results(arguments, dtype, "triton")
    rounded = {k: x.to(dtype).double() if x.is_floating_point() else x for k, x in arguments.items()}
    for i, (x, oracle) in enumerate(zip(got, results(rounded, torch.float64, "reference"), strict=True)):
        assert x.shape == oracle.shape, f"output {i}"
        if x.numel():
            worst = (x.double() - oracle).abs().max() / oracle.abs().max().clamp(min=1e-30)
            assert worst <= TOLERANCE[dtype], f"output {i}: {worst:.1e}"


@pytest.mark.parametrize("length", [0, 1, 19])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_equals_the_time_loop(device, dense, packed, length):
    check(operands(device, length, 3, dense=dense, packed=packed, state=True), torch.float64)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tau", [1, 4])
def test_without_initial_state(device, tau, packed):
    check(operands(device, 11, tau, dense=False, packed=packed, state=False), torch.float64)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(device, dtype, dense):
    check(operands(device, 11, 4, dense=dense, packed=False, state=True), dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_gradients(device, dense, packed):
    given = operands(device, 5, 3, dense=dense, packed=packed, state=True)
    edges = given.pop("cu_seqlens", None)
    leaves = [x.requires_grad_() for x in given.values()]

    def gate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return smr_gate(*tensors, gate_scale=1.7, cu_seqlens=edges, backend="triton")

    assert gradcheck(gate, leaves, fast_mode=True)


@pytest.mark.parametrize("dense", [False, True])
def test_two_runs_are_the_same_bits(device, dense):
    arguments = operands(device, 11, 4, dense=dense, packed=True, state=False)
    first, again = (results(arguments, torch.float32, "triton") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_variants_are_the_gate():
    assert all(" gate " in variant.name for variant in on_triton.variants())
