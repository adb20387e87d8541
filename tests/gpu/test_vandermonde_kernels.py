"""The Triton kernels of vandermonde against the formula in double precision: values, gradients, bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ssm_core.ops.vandermonde import vandermonde


def operands(dtype: torch.dtype, device: torch.device, width: int, states: int) -> list[Tensor]:
    """[v, log_x], the nodes within the unit disc."""
    generator = torch.Generator().manual_seed(states)
    re, im, decay, angle = torch.randn(4, width, states, generator=generator, dtype=torch.float64)
    log_x = torch.complex(-0.1 * decay.abs(), 3 * angle)
    return [x.to(device, dtype).requires_grad_() for x in (torch.complex(re, im), log_x)]


def results(tensors: list[Tensor], length: int, conj: bool, backend: str) -> list[Tensor]:
    """The kernel and both gradients, on the CPU, for a fixed gradient of the kernel."""
    out = vandermonde(*tensors, length, conj=conj, backend=backend)
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    found = torch.autograd.grad(out, tensors, grad if conj else (1 - 2j) * grad, materialize_grads=True)
    return [x.detach().cpu() for x in (out, *found)]


@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize(
    ("width", "states", "length"),
    [(2, 3, 64), (3, 5, 37), (1, 20, 1), (2, 1, 2), (1, 2, 8193), (2, 0, 5), (2, 3, 0)],
)
def test_equals_the_formula(device, width, states, length, dtype, tolerance, conj):
    tensors = operands(dtype, device, width, states)
    got = results(tensors, length, conj, "triton")
    wide = [x.detach().cpu().to(torch.complex128).requires_grad_() for x in tensors]
    expected = results(wide, length, conj, "torch" if length > 100 else "reference")
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        assert not x.numel() or (x - y).abs().max() <= tolerance * y.abs().max()


def test_single_precision_keeps_its_phase_to_the_end(device):
    """1e-6 of the largest value at L = 16384, where angles in float32 would be off by 2.7e-4."""
    tensors = operands(torch.complex64, device, 1, 4)
    with torch.no_grad():
        tensors[1].real.mul_(1e-3)  # so that the last values count
    got = vandermonde(*tensors, 16384, backend="triton").detach().cpu()
    wide = [x.detach().cpu().to(torch.complex128) for x in tensors]
    exact = vandermonde(*wide, 16384, backend="torch")
    error = (got - exact).abs()
    assert error.max() <= 1e-6 * exact.abs().max()
    assert error.norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("conj", [True, False])
def test_gradients(device, conj):
    tensors = operands(torch.complex128, device, 1, 2)
    assert gradcheck(lambda v, log_x: vandermonde(v, log_x, 6, conj=conj, backend="triton"), tensors)


def test_strides_and_repetition(device):
    v, log_x = operands(torch.complex64, device, 3, 5)
    strided = [x.detach().T.contiguous().T.conj().resolve_conj().conj().requires_grad_() for x in (v, log_x)]
    first, second, other = (results(x, 20, True, "triton") for x in ([v, log_x], [v, log_x], strided))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(first, other, strict=True))
