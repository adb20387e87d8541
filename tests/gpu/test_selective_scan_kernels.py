"""The selective scan's kernels against its time loop: values and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ssm_core.ops import selective_scan

METHODS = ["euler", "zoh", "bilinear"]


def operands(
    device: torch.device, dtype: torch.dtype, wide: bool, forms: str, shape=(1, 5, 4, 3)
) -> list[Tensor]:
    """u, dt, A, B, C, initial_state; forms are of B and C: fixed, one, groups by their first letters."""
    torch.manual_seed(0)
    batch, length, width, n = shape
    kind = torch.promote_types(dtype, torch.complex64) if wide else dtype
    A = -torch.rand(width, n, dtype=dtype)
    A = torch.complex(A, torch.randn(width, n, dtype=dtype)) if wide else A
    sizes = {"f": (width, n), "o": (batch, length, n), "g": (batch, length, 2, n)}
    B, C = (torch.randn(sizes[form], dtype=kind) for form in forms)
    u, dt = torch.randn(batch, length, width, dtype=dtype), torch.rand(batch, length, width, dtype=dtype)
    return [x.to(device) for x in (u, dt, A, B, C, torch.randn(batch, width, n, dtype=kind))]


def run(tensors: list[Tensor], **options) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in tensors]
    y, last = selective_scan(*leaves[:5], initial_state=leaves[5], **options)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    loss = (weight * y).sum() + (last * last.conj()).real.sum()
    return [y, last, *torch.autograd.grad(loss, leaves, materialize_grads=True)]


def check(tensors: list[Tensor], **options) -> None:
    double = tensors[0].dtype == torch.float64
    oracle = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in tensors]
    pairs = zip(
        run(tensors, backend="triton", **options), run(oracle, backend="reference", **options), strict=True
    )
    for place, (got, expected) in enumerate(pairs):
        assert got.shape == expected.shape
        if not got.numel():
            continue
        error = (got.to(expected.dtype) - expected).abs().max()
        assert error <= (1e-12 if double else 1e-5) * expected.abs().max().clamp(min=1.0), f"output {place}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("wide", "forms"), [(False, "oo"), (False, "fg"), (True, "ff"), (True, "go")])
def test_float64(device, wide, forms, method):
    check(operands(device, torch.float64, wide, forms), discretization=method)


@pytest.mark.parametrize("wide", [False, True])
def test_float32_over_chunks(device, wide):
    check(operands(device, torch.float32, wide, "oo", shape=(1, 37, 2, 2)))


@pytest.mark.parametrize("shape", [(2, 1, 3, 1), (1, 0, 2, 2), (2, 2, 5, 2)])
def test_odd_sizes(device, shape):
    check(operands(device, torch.float32, False, "of", shape=shape))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4, 0), (2, 5, 0, 3), (0, 5, 2, 2)])
def test_where_there_is_nothing_to_scan_all_is_zero(device, shape, wide):
    """No state, no channel or no row: no kernel is launched, and nothing may be left unwritten."""
    y, last, *grads = run(operands(device, torch.float32, wide, "of", shape=shape), backend="triton")
    assert not any(x.any() for x in (y, last, *grads))  # NaN would count


@pytest.mark.parametrize("wide", [False, True])
def test_gradients(device, wide):
    tensors = operands(device, torch.float64, wide, "go", shape=(1, 3, 2, 2))
    leaves = [x.requires_grad_() for x in tensors]

    def scan(*given: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(*given[:5], initial_state=given[5], discretization="zoh", backend="triton")

    assert gradcheck(scan, leaves, fast_mode=True)


# The series of the zero-order hold overflows where it is not taken, of which the interpreter warns.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("magnitude", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wide", [False, True])
def test_finite_for_any_decay(device, wide, method, magnitude):
    tensors = operands(device, torch.float32, wide, "oo", shape=(1, 3, 2, 2))
    tensors[2] = torch.full_like(tensors[2], magnitude * (-1 + 0.5j if wide else -1))
    found = run(tensors, backend="triton", discretization=method)
    assert all(x.isfinite().all() for x in found)
    exact = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in tensors]
    expected, *_ = run(exact, backend="reference", discretization=method)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_packed(device, wide):
    tensors = operands(device, torch.float64, wide, "og", shape=(1, 7, 4, 2))
    edges = torch.tensor([0, 0, 3, 4, 4, 7], dtype=torch.int32, device=device)
    tensors[5] = torch.randn(5, 4, 2, dtype=tensors[5].dtype, device=device)
    check(tensors, cu_seqlens=edges)


@pytest.mark.parametrize("exponent", [-12, -6, -2, -1, 0, 1])
def test_zero_order_hold_for_gaps_of_any_size(device, exponent):
    dt = torch.full((1, 1, 1), 10.0**exponent, device=device)
    one = torch.ones(1, 1, device=device)
    y, _ = selective_scan(one[None], dt, -one, one, one, discretization="zoh", backend="triton")
    exact = -torch.expm1(-dt.double())
    assert (y.double() - exact).abs().item() <= 1e-6 * exact.item()


def test_two_runs_are_the_same_bits(device):
    tensors = operands(device, torch.float32, True, "gf")
    pairs = zip(run(tensors, backend="triton"), run(tensors, backend="triton"), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
