"""spread: every backend against the definition in double precision, its edges, and refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ssm_core.opkit.dispatch import numba_problem
from ssm_core.ops import available_backends
from ssm_serpent.ops import spread

unhurried = settings(deadline=None)


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """Rows of points as a causal index has them (none at first, then one after the other, then padding), and K."""
    n_points, length = draw(st.integers(0, 6)), draw(st.integers(0, 20))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = sorted(draw(st.lists(st.integers(0, n_points), max_size=length)))
        rows.append(row + [0] * (length - len(row)))
    return rows, n_points


def operands(point: Tensor, n_points: int, width: int, dtype: torch.dtype, before: bool) -> list[Tensor]:
    """y, with NaN in points that nobody reads, and what stood before."""
    generator = torch.Generator().manual_seed(width)
    y = torch.randn(len(point), n_points, width, generator=generator, dtype=torch.float64)
    for row, points in zip(y, point.tolist(), strict=True):
        unread = sorted(set(range(1, n_points + 1)) - set(points))
        row[[k - 1 for k in unread]] = torch.nan
    held = [torch.randn(len(point), width, generator=generator, dtype=torch.float64)] * before
    return [t.to(point.device, dtype) for t in (y, *held)]


def call(point: Tensor, backend: str, y: Tensor, before: Tensor | None = None) -> Tensor:
    return spread(y, point, before_bh=before, backend=backend)


def check(where, point: Tensor, tensors: list[Tensor], gradients, agree) -> None:
    got = gradients(partial(call, point, where.backend), tensors)
    assert {x.dtype for x in got} == {tensors[0].dtype}
    expected = gradients(partial(call, point.cpu(), "reference"), [x.double().cpu() for x in tensors])
    agree(got, expected)


@unhurried
@given(case=maps(), width=st.integers(1, 4), before=st.booleans())
def test_equals_the_definition(where, gradients, agree, case, width, before):
    """Rows without points, points without tokens, padding, no points at all."""
    rows, n_points = case
    point = torch.tensor(rows, dtype=torch.int64, device=where.device).view(len(rows), -1)
    check(where, point, operands(point, n_points, width, torch.float64, before), gradients, agree)


@pytest.mark.parametrize("before", [False, True])
def test_equals_the_definition_in_single_precision(where, before, gradients, agree):
    """A point of two thousand tokens, whose gradients would lose digits in a running sum."""
    point = torch.tensor([[0] * 30 + [1] * 2000 + [2] * 3 + [4] * 7 + [0] * 10], device=where.device)
    point = torch.cat([point, torch.arange(2050, device=where.device)[None] // 50])
    check(where, point, operands(point, 40, 7, torch.float32, before), gradients, agree)


@pytest.mark.parametrize("before", [False, True])
def test_gradients(where, before):
    point = torch.tensor([[0, 1, 1, 3, 0], [1, 2, 2, 2, 3]], device=where.device)
    tensors = operands(point, 3, 2, torch.float64, before)
    tensors = [x.nan_to_num().requires_grad_() for x in tensors]
    assert gradcheck(partial(call, point, where.backend), tensors)


def test_only_the_reference_has_a_second_derivative(where):
    y = torch.ones(1, 2, 1, dtype=torch.float64, device=where.device, requires_grad=True)
    point = torch.tensor([[0, 1, 2]], device=where.device)
    assert gradgradcheck(partial(call, point, "reference"), [y])
    (grad,) = torch.autograd.grad(call(point, where.backend, y).square().sum(), y, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_keep_their_values_and_sum_in_single_precision(where, dtype, gradients):
    point = torch.tensor([[0, 1, 1, 1, 2, 2, 0]], device=where.device)
    tensors = operands(point, 2, 5, dtype, True)
    got = gradients(partial(call, point, where.backend), tensors)
    wide = gradients(partial(call, point, where.backend), [x.float() for x in tensors])
    assert torch.equal(got[0], wide[0].to(dtype))
    for x, y in zip(got[1:], wide[1:], strict=True):
        assert x.dtype == dtype
        # The gradient that comes in is rounded once on its way to the half output.
        torch.testing.assert_close(x.float(), y, rtol=0.02, atol=0.02)


def test_two_runs_are_the_same_bits_at_any_strides(where, gradients):
    point = torch.tensor([[0, 1, 1, 3, 0], [1, 2, 2, 2, 3]], device=where.device).repeat_interleave(9, 1)
    y, before = operands(point, 3, 21, torch.float32, True)
    run = partial(gradients, partial(call, point, where.backend))
    plain = run([y, before])
    assert all(map(torch.equal, plain, run([y, before])))
    odd = [y.mT.contiguous().mT, before.T.contiguous().T]
    assert not odd[0].is_contiguous()
    point = point.T.contiguous().T
    assert all(map(torch.equal, plain, gradients(partial(call, point, where.backend), odd)))


@pytest.mark.skipif(bool(numba_problem()), reason="numba does not run here")
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_threads_change_nothing(batch, gradients):
    """Work cut by rows, by channels, and not at all: the same bits."""
    point = torch.arange(900).expand(batch, -1).contiguous() // 3
    tensors, found = operands(point, 300, 200, torch.float32, True), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(gradients(partial(call, point, "numba"), tensors))
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, *found))


def test_inputs_are_left_alone(where):
    point = torch.tensor([[0, 1, 1, 2]], device=where.device)
    tensors = operands(point, 2, 3, torch.float32, True)
    kept = [x.clone() for x in tensors]
    call(point, where.backend, *tensors).zero_()
    assert all(map(torch.equal, tensors, kept))


def test_doctor_sees_it():
    assert available_backends("spread")["torch"] == "ok"
    assert available_backends("spread")["reference"] == "ok"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_bkh": torch.ones(2, 3)}, r"spread: y_bkh has shape \(2, 3\), expected \(B, K, h\)"),
        ({"y_bkh": torch.ones(1, 2, 3, dtype=torch.int32)}, "y_bkh has dtype torch.int32"),
        ({"y_bkh": torch.ones(1, 2, 3, dtype=torch.complex64)}, "y_bkh is complex"),
        ({"point_bl": torch.tensor([[0.0, 1.0]])}, "point_bl is torch.float32"),
        ({"point_bl": torch.tensor([[0], [1]])}, r"expected int64 \(1, L\)"),
        ({"point_bl": torch.tensor([[0, 3]])}, r"must lie in 0\.\.2"),
        ({"point_bl": torch.tensor([[-1, 2]])}, r"must lie in 0\.\.2"),
        ({"point_bl": torch.tensor([[2, 1]])}, "must not decrease"),
        ({"point_bl": torch.tensor([[1, 0, 2]])}, "must not decrease"),
        ({"before_bh": torch.ones(1, 4)}, r"before_bh has shape \(1, 4\), expected \(1, 3\)"),
        ({"before_bh": torch.ones(1, 3, device="meta")}, "before_bh is on meta"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of"),
    ],
)
def test_refusals_name_the_argument(change, message):
    arguments = {"y_bkh": torch.ones(1, 2, 3), "point_bl": torch.tensor([[0, 1, 2]]), **change}
    with pytest.raises(ValueError, match=message):
        spread(**arguments)
