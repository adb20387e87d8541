"""The kernels of causal_conv1d against its time loop: values and every gradient, in each precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

pytest.importorskip("triton")

from ssm_core.ops.causal_conv1d import causal_conv1d, on_triton

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def operands(device: torch.device, length: int, width: int, *, packed: bool, state: bool = True) -> dict:
    """Arguments in double precision; a pack has empty, one-step and short sequences."""
    torch.manual_seed(length)
    offsets = [0, 0, min(1, length), min(3, length), max(min(3, length), length // 2), length]
    batch, rows, channels = (1, len(offsets) - 1, 5) if packed else (2, 2, 5)
    shapes = {"x": (batch, length, channels), "weight": (channels, width), "bias": (channels,)}
    if state:
        shapes["initial_state"] = (rows, width - 1, channels)
    found = {name: torch.randn(shape, dtype=torch.float64).to(device) for name, shape in shapes.items()}
    return found | ({"cu_seqlens": torch.tensor(offsets, dtype=torch.int32, device=device)} if packed else {})


def results(arguments: dict, dtype: torch.dtype, backend: str, activation: str | None) -> list[Tensor]:
    """Outputs and gradients, for fixed pseudo-random gradients of the outputs."""
    leaves = {k: x.to(dtype).requires_grad_() for k, x in arguments.items() if x.is_floating_point()}
    outputs = causal_conv1d(**{**arguments, **leaves}, activation=activation, backend=backend)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), grads, materialize_grads=True)]


def check(arguments: dict, dtype: torch.dtype, activation: str | None) -> None:
    got = results(arguments, dtype, "triton", activation)
    rounded = {k: x.to(dtype).double() if x.is_floating_point() else x for k, x in arguments.items()}
    expected = results(rounded, torch.float64, "reference", activation)
    for i, (x, oracle) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == oracle.shape, f"output {i}"
        if x.numel():
            worst = (x.double() - oracle).abs().max() / oracle.abs().max().clamp(min=1e-30)
            assert worst <= TOLERANCE[dtype], f"output {i}: {worst:.1e}"


@pytest.mark.parametrize("length", [0, 1, 5, 19])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_equals_the_time_loop(device, activation, packed, length):
    check(operands(device, length, 3, packed=packed), torch.float64, activation)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("width", [1, 8, 9])
def test_any_width(device, width, packed):
    """The last of them is wider than the kernels unroll."""
    check(operands(device, 11, width, packed=packed), torch.float64, "silu")


@pytest.mark.parametrize("packed", [False, True])
def test_without_initial_state(device, packed):
    check(operands(device, 11, 4, packed=packed, state=False), torch.float64, "silu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(device, dtype):
    check(operands(device, 11, 4, packed=False), dtype, "silu")


@pytest.mark.parametrize("packed", [False, True])
def test_a_program_of_several_pieces(device, packed, monkeypatch):
    monkeypatch.setattr(on_triton, "_PROGRAMS", 1)
    monkeypatch.setattr(on_triton, "_PIECES", 2)
    check(operands(device, 19, 3, packed=packed, state=False), torch.float64, "silu")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients(device, activation, packed):
    given = operands(device, 5, 3, packed=packed)
    edges = given.pop("cu_seqlens", None)
    leaves = [x.requires_grad_() for x in given.values()]

    def convolution(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(x, weight, bias, activation, state, cu_seqlens=edges, backend="triton")

    assert gradcheck(convolution, leaves, fast_mode=True)


def test_any_strides_and_two_runs_are_the_same_bits(device):
    arguments = operands(device, 11, 4, packed=False)
    first = results(arguments, torch.float32, "triton", "silu")
    strided = {
        k: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x for k, x in arguments.items()
    }
    again = results(strided, torch.float32, "triton", "silu")
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_no_gradient_comes_from_the_future_or_from_another_sequence(device):
    x = torch.randn(1, 12, 3, device=device, requires_grad=True)
    offsets = torch.tensor([0, 5, 12], dtype=torch.int32, device=device)
    weight = torch.randn(3, 4, device=device)
    y, _ = causal_conv1d(x, weight, cu_seqlens=offsets, backend="triton")
    (grad,) = torch.autograd.grad(y[:, 6].sum(), x)
    assert grad[:, 5:7].all()
    assert not grad[:, :5].any()
    assert not grad[:, 7:].any()


def test_every_variant_has_a_name_of_its_own():
    names = [variant.name for variant in on_triton.variants()]
    assert len(set(names)) == len(names)
