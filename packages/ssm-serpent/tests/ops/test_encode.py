"""encode: every backend against the definition in double precision, its edges, and refusals."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ssm_core.ops import available_backends
from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import TICKS
from ssm_serpent.ops import encode
from ssm_serpent.ops._segments import _by_reduction, _one_by_one
from ssm_serpent.ops.encode import on_torch
from ssm_serpent.ops.encode.basis import features
from ssm_serpent.testing import from_ticks

unhurried = settings(deadline=None)
TICK_VALUES = st.sampled_from([n * TICKS // 8 for n in range(1, 9)]) | st.integers(1, TICKS)
BATCHES = st.lists(st.lists(TICK_VALUES, max_size=12), min_size=1, max_size=3)


class Sizes(NamedTuple):
    """D, h, G, W; whether there is a bias."""

    width: int = 3
    outputs: int = 2
    basis: int = 2
    window: int = 4
    bias: bool = True


SIZES = st.builds(
    Sizes, st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(1, 6), st.booleans()
)


def ragged(lengths: list[int], mode: str, window: int, device: str = "cpu") -> tuple[Index, Tensor]:
    """Maps of rows of these lengths with random intervals, and the mask of their tokens."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(1, TICKS + 1, (n,), generator=generator).tolist() for n in lengths]
    return resample_index(from_ticks(rows, device), window, mode), _mask(rows, device)


def _mask(rows: list[list[int]], device: str) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return torch.arange(max(map(len, rows)), device=device) < lengths[:, None]


def operands(index: Index, mask_bl: Tensor, sizes: Sizes, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x (NaN in padding), distances, weight, centres, log_gamma, bias if wanted."""
    width, outputs, basis, window, bias = sizes
    generator = torch.Generator().manual_seed(outputs + 10 * width)
    device = mask_bl.device
    x = torch.randn(*mask_bl.shape, width, generator=generator, dtype=torch.float64).to(device)
    x = x.masked_fill(~mask_bl[..., None], torch.nan)
    weight = torch.randn(outputs, window, width + basis, generator=generator, dtype=torch.float64)
    # Sixteenths: their differences from distances are exact in float32, so no tiny one loses its digits.
    centres = torch.randint(-32, 33, (basis,), generator=generator).double() / 16
    rest = [weight, centres, 0.5 * torch.randn(basis, generator=generator, dtype=torch.float64)]
    rest += [torch.randn(outputs, generator=generator, dtype=torch.float64)] * bias
    return [t.to(device, dtype) for t in (x, index.distance_bkw.detach(), *rest)]


def call(index: Index, backend: str, x, distance, weight, centres, log_gamma, bias=None) -> Tensor:
    """encode with the tensors that have gradients first."""
    places = index.start_bk, index.inside_bkw
    return encode(x, *places, distance, weight, bias, centres, log_gamma, backend=backend)


def check(where, index: Index, tensors: list[Tensor], gradients, agree) -> None:
    """Values and every gradient equal those of the definition."""
    got = gradients(partial(call, index, where.backend), tensors)
    assert {x.dtype for x in got} == {tensors[0].dtype}
    on_cpu = Index(*(field.cpu() for field in index))
    expected = gradients(partial(call, on_cpu, "reference"), [x.double().cpu() for x in tensors])
    agree(got, expected)


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@unhurried
@given(batch=BATCHES, sizes=SIZES)
def test_equals_the_definition(where, mode, gradients, agree, batch, sizes):
    """Ragged rows, empty ones, ties, windows wider than rows; padding is NaN, on the way in and nowhere after."""
    index = resample_index(from_ticks(batch, where.device), sizes.window, mode)
    check(where, index, operands(index, _mask(batch, where.device), sizes), gradients, agree)


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize("sizes", [Sizes(7, 5, 4, 6), Sizes(40, 33, 1, 2), Sizes(1, 1, 0, 3, False)])
def test_equals_the_definition_in_single_precision(where, mode, sizes, gradients, agree):
    index, mask_bl = ragged([60, 37, 0], mode, sizes.window, where.device)
    check(where, index, operands(index, mask_bl, sizes, torch.float32), gradients, agree)


def test_many_tiles(where, monkeypatch, gradients, agree):
    """Tiles of 64 points: their edges fall inside rows."""
    monkeypatch.setattr(on_torch, "_TILE", {"cpu": 1})
    index, mask_bl = ragged([200, 150], "nearest", 4, where.device)
    assert index.start_bk.shape[1] > 80
    check(where, index, operands(index, mask_bl, Sizes(), torch.float32), gradients, agree)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients(where, bias):
    index, mask_bl = ragged([9, 4], "causal", 3, where.device)
    tensors = [x.requires_grad_() for x in operands(index, mask_bl, Sizes(2, 2, 2, 3, bias))]
    tensors[0] = tensors[0].detach().nan_to_num().requires_grad_()
    assert gradcheck(partial(call, index, where.backend), tensors)


def test_only_the_reference_has_a_second_derivative(where):
    index, _ = ragged([4], "nearest", 2, where.device)
    tensors = operands(index, torch.ones(1, 4, dtype=torch.bool, device=where.device), Sizes(1, 1, 1, 2))
    tensors = [x.requires_grad_() for x in tensors]
    assert gradgradcheck(partial(call, index, "reference"), tensors)
    (grad,) = torch.autograd.grad(call(index, where.backend, *tensors).sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_rows_without_a_token_are_zero_and_give_nothing(where, mode, gradients):
    """Unused rows at the end, and gradients that are NaN there."""
    index, mask_bl = ragged([20, 3], mode, 3, where.device)
    tensors = [x.requires_grad_() for x in operands(index, mask_bl, Sizes(window=3))]
    out = call(index, where.backend, *tensors)
    assert not out[~index.valid_bk].any()
    assert out[index.valid_bk].isfinite().all()
    poison = torch.ones_like(out).masked_fill(~index.valid_bk[..., None], torch.nan)
    for grad in torch.autograd.grad(out, tensors, poison):
        assert grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (2, 5, 0)])
def test_nothing_to_encode(where, shape):
    batch, length, n_points = shape
    x = torch.ones(batch, length, 3, device=where.device, requires_grad=True)
    weight = torch.ones(2, 4, 4, device=where.device, requires_grad=True)
    inside = torch.zeros(batch, n_points, 4, dtype=torch.bool, device=where.device)
    distance, one = inside.float(), torch.ones(1, device=where.device)
    start = distance[..., 0].long()
    out = encode(x, start, inside, distance, weight, one.expand(2), one, one, backend=where.backend)
    assert out.shape == (batch, n_points, 2)
    assert not out.any()
    for grad in torch.autograd.grad(out.sum(), (x, weight)):
        assert not grad.any()


def test_the_equation(where):
    """One point of two slots, by hand."""
    x = torch.tensor([[[1.0], [10.0], [100.0]]], device=where.device)
    start = torch.tensor([[1]], device=where.device)
    inside = torch.ones(1, 1, 2, dtype=torch.bool, device=where.device)
    distance = torch.tensor([[[-0.5, 0.5]]], device=where.device)
    weight = torch.tensor([[[2.0, 3.0], [5.0, 7.0]]], device=where.device)
    one = torch.ones(1, device=where.device)
    out = encode(x, start, inside, distance, weight, one, 0.5 * one, 0.0 * one, backend=where.backend)
    expected = 1 + 2 * 10 + 5 * 100 + 3 * torch.exp(torch.tensor(-1.0)) + 7
    torch.testing.assert_close(out.cpu().flatten()[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(where, dtype):
    if where.backend == "triton":
        pytest.skip("may use TF32; tests/gpu bounds its error")
    index, mask_bl = ragged([50, 20], "nearest", 4, where.device)
    tensors = [x.to(dtype) for x in operands(index, mask_bl, Sizes())]
    out = call(index, where.backend, *tensors)
    wide = call(index, where.backend, *(x.float() for x in tensors))
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))


def test_autocast_changes_nothing(where):
    index, mask_bl = ragged([20, 9], "nearest", 4, where.device)
    tensors = operands(index, mask_bl, Sizes(), torch.float32)
    expected = call(index, where.backend, *tensors)
    with torch.autocast(where.device, torch.bfloat16):
        assert torch.equal(call(index, where.backend, *tensors), expected)


def test_two_runs_are_the_same_bits_at_any_strides(where, gradients):
    index, mask_bl = ragged([90, 41, 0], "nearest", 5, where.device)
    tensors = operands(index, mask_bl, Sizes(19, 9, 3, 5), torch.float32)
    run = partial(gradients, partial(call, index, where.backend))
    plain = run(tensors)
    assert all(map(torch.equal, plain, run(tensors)))
    odd = [x.mT.contiguous().mT if x.ndim > 1 else x.flip(0).contiguous().flip(0) for x in tensors]
    assert not odd[0].is_contiguous()
    places = (x.T.contiguous().T if x.ndim == 2 else x.mT.contiguous().mT for x in index[1:-1])
    index = Index(index.count_b, *places, index.point_bl)
    assert all(map(torch.equal, plain, gradients(partial(call, index, where.backend), odd)))


def test_inputs_are_left_alone(where):
    index, mask_bl = ragged([20, 9], "nearest", 4, where.device)
    tensors = [x.nan_to_num() for x in operands(index, mask_bl, Sizes())]
    kept = [x.clone() for x in tensors]
    call(index, where.backend, *tensors).zero_()
    assert all(map(torch.equal, tensors, kept))


def test_sums_over_runs_are_the_same_by_reduction_and_one_by_one():
    """The GPU's way, on a CPU: empty runs, rows before the first edge and behind the last."""
    rows = torch.randn(2, 9, 3, dtype=torch.float64)
    edges = torch.tensor([[1, 1, 4, 9, 9], [0, 2, 2, 3, 7]])
    expected = torch.stack(
        [torch.stack([rows[b, i:j].sum(0) for i, j in pairwise(e.tolist())]) for b, e in enumerate(edges)]
    )
    for sums in (_by_reduction, _one_by_one):
        torch.testing.assert_close(sums(rows, edges), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_gradients_by_runs_equal_those_in_order(mode):
    """The GPU's way to the tokens, on a CPU."""
    index, mask_bl = ragged([40, 13, 0], mode, 5)
    x, *_ = operands(index, mask_bl, Sizes())
    grad = torch.randn(index.start_bk.numel(), 2, dtype=torch.float64)
    grad = grad.masked_fill(~index.inside_bkw.any(2).flatten()[:, None], 0)
    weight = torch.randn(2, 5 * 3, dtype=torch.float64)
    given = grad, weight, x, index.start_bk, index.inside_bkw
    torch.testing.assert_close(on_torch._by_runs(*given), on_torch._in_order(*given), rtol=1e-13, atol=1e-13)


@unhurried
@given(
    ticks=st.lists(TICK_VALUES, min_size=1, max_size=20),
    window=st.integers(1, 6),
    centre=st.integers(-32, 32),
)
def test_19_basis_functions_lie_in_0_to_1_and_are_1_at_their_centres_only(device, ticks, window, centre):
    index = resample_index(from_ticks([ticks], device), window, "nearest")
    mu = torch.tensor([centre / 8], dtype=torch.float64, device=device)
    e_bkw = features(index.distance_bkw, index.inside_bkw, mu, torch.zeros_like(mu))[..., 0]
    inside = index.inside_bkw
    assert ((e_bkw > 0) & (e_bkw <= 1))[inside].all()
    # The nearest distance that is not the centre is a tick off: 1 - 2^-40, which float64 tells from 1.
    assert torch.equal((e_bkw == 1)[inside], (index.distance_bkw == mu)[inside])
    assert not e_bkw[~inside].any()


def test_doctor_sees_it():
    assert available_backends("encode")["torch"] == "ok"
    assert available_backends("encode")["reference"] == "ok"


ARGUMENTS = {
    "x_bld": torch.ones(1, 5, 2),
    "start_bk": torch.tensor([[0, 2]]),
    "inside_bkw": torch.ones(1, 2, 3, dtype=torch.bool),
    "distance_bkw": torch.zeros(1, 2, 3),
    "weight": torch.ones(4, 3, 3),
    "bias": torch.ones(4),
    "centres": torch.ones(1),
    "log_gamma": torch.ones(1),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_bld": torch.ones(5, 2)}, r"encode: x_bld has shape \(5, 2\), expected \(B, L, D\)"),
        ({"x_bld": torch.ones(1, 5, 2, dtype=torch.int64)}, "x_bld has dtype torch.int64"),
        ({"x_bld": torch.ones(1, 5, 2, dtype=torch.complex64)}, "x_bld is complex"),
        ({"start_bk": torch.tensor([[0.0, 2.0]])}, "start_bk must be int64"),
        ({"start_bk": torch.tensor([[0, 1, 2]])}, r"start_bk has shape \(1, 3\), expected \(1, 2\)"),
        ({"inside_bkw": torch.ones(1, 2, 3)}, "inside_bkw bool"),
        ({"inside_bkw": torch.ones(2, 2, 3, dtype=torch.bool)}, r"expected \(1, K, W\)"),
        ({"distance_bkw": torch.zeros(1, 2, 2)}, r"distance_bkw has shape \(1, 2, 2\)"),
        ({"weight": torch.ones(4, 3, 2)}, r"weight has shape \(4, 3, 2\), expected \(4, 3, 3\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(4,\)"),
        ({"centres": torch.ones(1, 1)}, r"centres has shape \(1, 1\)"),
        ({"log_gamma": torch.ones(2)}, r"log_gamma has shape \(2,\), expected \(1,\)"),
        ({"log_gamma": torch.ones(1, device="meta")}, "log_gamma is on meta"),
        ({"start_bk": torch.tensor([[0, 3]])}, r"token start_bk \+ j outside 0..4"),
        ({"start_bk": torch.tensor([[-1, 2]])}, r"token start_bk \+ j outside 0..4"),
        ({"start_bk": torch.tensor([[2, 0]])}, "start_bk must not decrease"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of"),
    ],
)
def test_refusals_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        encode(**{**ARGUMENTS, **change})
