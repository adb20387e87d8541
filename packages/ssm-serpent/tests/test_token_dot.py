"""The logits' product and sum: the bits of the plain formula, whatever stands beside a token, and its derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_serpent import token_dot as module
from ssm_serpent.interval_map import IntervalMap
from ssm_serpent.token_dot import token_dot

dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


def plain(x_bld: Tensor, weight: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(x_bld.dtype, weight.dtype), torch.float32)
    return (x_bld.to(wide) * weight.to(wide)).sum(-1, dtype=torch.float64)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(deadline=None)
@given(
    batch=st.integers(0, 3),
    length=st.integers(0, 70),
    width=st.integers(1, 200),
    block=st.integers(1, 5000),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
def test_blocks_prefixes_rows_and_tokens_have_the_same_bits(batch, length, width, block, dtype, seed):
    x, weight = drawn(batch, length, width, dtype=dtype, seed=seed), drawn(width, seed=seed + 1).float()
    expected = plain(x, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert torch.equal(token_dot(x, weight), expected)
        assert torch.equal(token_dot(x.mT.contiguous().mT, weight), expected)
    for cut in {length // 2, min(length, 1)}:
        assert torch.equal(token_dot(x[:, :cut], weight), expected[:, :cut])
        assert torch.equal(token_dot(x[:, cut:], weight), expected[:, cut:])
    for b in range(batch):
        assert torch.equal(token_dot(x[b : b + 1], weight), expected[b : b + 1])


@settings(deadline=None)
@given(length=st.integers(0, 40), width=st.integers(1, 9), dtype=dtypes, seed=st.integers(0, 99))
def test_gradients_are_those_of_the_plain_formula(length, width, dtype, seed):
    x, weight = drawn(2, length, width, dtype=dtype, seed=seed), drawn(width, seed=seed + 1).float()
    leaves, grad = [x.requires_grad_(), weight.requires_grad_()], drawn(2, length, seed=seed + 2)
    found, expected = (torch.autograd.grad(f(*leaves), leaves, grad) for f in (token_dot, plain))
    assert torch.equal(found[0], expected[0])
    assert found[1].dtype == torch.float32
    scale = float((grad.abs()[..., None] * x.detach().abs()).sum((0, 1)).max()) if length else 0.0
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6 * scale)


@pytest.fixture
def leaves() -> list[Tensor]:
    return [drawn(2, 3, 5).requires_grad_(), drawn(5, seed=1).requires_grad_()]


def squared(x_bld: Tensor, weight: Tensor) -> Tensor:
    return token_dot(x_bld, weight) ** 2


def test_derivatives_of_any_order(leaves):
    assert torch.autograd.gradcheck(squared, leaves)
    assert torch.autograd.gradgradcheck(squared, leaves)


def test_compiled_and_under_the_transforms_of_torch_func(leaves):
    expected = plain(*leaves) ** 2
    compiled: Any = torch.compile(squared, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*leaves).sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    )
    rows = torch.vmap(lambda x, w: squared(x[None], w)[0], (0, None))
    torch.testing.assert_close(rows(*leaves), expected)
    grads = torch.func.grad(lambda x, w: squared(x, w).sum(), (0, 1))(*leaves)
    torch.testing.assert_close(grads, torch.autograd.grad((plain(*leaves) ** 2).sum(), leaves))


def test_a_backward_pass_within_autocast_is_in_full_precision(device):
    interval_map, x = IntervalMap(6, 0.2, 1.0).to(device), drawn(2, 30, 6).float().to(device)
    leaves = [x.requires_grad_(), *interval_map.parameters()]
    expected = torch.autograd.grad(interval_map(x).u_bl.sum(), leaves)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = torch.autograd.grad(interval_map(x).u_bl.sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_nothing_as_large_as_the_tokens_is_kept_or_made_beside_their_gradient():
    """On a CPU; as `(x * w).sum(-1, dtype=float64)` it takes five times that and more."""
    from ssm_serpent.bench.measure import peak_bytes

    x, weight = drawn(4, 4096, 64).float().requires_grad_(), drawn(64).float().requires_grad_()

    def peak(function: Any) -> int:
        def run() -> None:
            torch.autograd.grad(function(x, weight).sum(), [x, weight])

        return peak_bytes(run, torch.device("cpu"))

    assert peak(token_dot) < 1.25 * x.nbytes
    assert peak(plain) > 3 * x.nbytes
