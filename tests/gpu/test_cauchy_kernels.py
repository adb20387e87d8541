"""The Triton kernels of cauchy against the formula in double precision: values, gradients, bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ssm_core.ops.cauchy import cauchy


def operands(
    dtype: torch.dtype, device: torch.device, width: int, states: int, nodes: int, *, rows: bool = False
) -> list[Tensor]:
    """[v, z, w], nodes on the imaginary axis and poles left of it."""
    generator = torch.Generator().manual_seed(nodes + states)
    re, im, decay, angle = torch.randn(4, width, states, generator=generator, dtype=torch.float64)
    frequency = torch.randn((width, nodes) if rows else nodes, generator=generator, dtype=torch.float64)
    w = torch.complex(-0.2 - decay.abs(), angle)
    return [x.to(device, dtype).requires_grad_() for x in (torch.complex(re, im), 1j * frequency, w)]


def results(tensors: list[Tensor], conj: bool, backend: str) -> list[Tensor]:
    """The product and its gradients, on the CPU, for a fixed gradient of the product."""
    out = cauchy(*tensors, conj=conj, backend=backend)
    generator = torch.Generator().manual_seed(0)
    grad = torch.complex(*torch.randn(2, *out.shape, generator=generator, dtype=torch.float64)).to(out)
    found = torch.autograd.grad(out, tensors, grad, materialize_grads=True)
    return [x.detach().cpu() for x in (out, *found)]


@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize(
    ("width", "states", "nodes"), [(2, 3, 64), (3, 5, 300), (1, 9, 1), (2, 1, 513), (2, 0, 5), (2, 3, 0)]
)
def test_equals_the_formula(device, width, states, nodes, rows, dtype, tolerance, conj):
    tensors = operands(dtype, device, width, states, nodes, rows=rows)
    got = results(tensors, conj, "triton")
    wide = [x.detach().cpu().to(torch.complex128).requires_grad_() for x in tensors]
    for x, y in zip(got, results(wide, conj, "reference"), strict=True):
        assert x.shape == y.shape
        assert not x.numel() or (x - y).abs().max() <= tolerance * y.abs().max()


@pytest.mark.parametrize("conj", [True, False])
@pytest.mark.parametrize("rows", [True, False])
def test_gradients(device, rows, conj):
    tensors = operands(torch.complex128, device, 1, 2, 2, rows=rows)
    assert gradcheck(lambda *tensors: cauchy(*tensors, conj=conj, backend="triton"), tensors)


def test_strides_and_repetition(device):
    tensors = operands(torch.complex64, device, 3, 5, 20, rows=True)
    strided = [x.detach().T.contiguous().T.conj().resolve_conj().conj().requires_grad_() for x in tensors]
    first, second, other = (results(x, True, "triton") for x in (tensors, tensors, strided))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    torch.testing.assert_close(first, other)
