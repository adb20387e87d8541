"""Eq. 13: values, rounding, gradient and errors of `intervals` and `fixed_point`."""

from __future__ import annotations

import pytest
import torch

from ssm_serpent.intervals import TICKS, fixed_point, intervals, tick_range


def test_zero_logits_give_the_middle_of_the_range():
    spans = intervals(torch.zeros(2, 3), 0.5, 1.0)
    assert torch.equal(spans.u_bl, torch.full((2, 3), 0.75))
    assert torch.equal(spans.times_bl, torch.tensor([[3, 6, 9]] * 2) * (TICKS // 4))
    assert spans.length_b.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_low_precision_logits_give_float32_intervals(dtype, expected):
    spans = intervals(torch.randn(2, 5).to(dtype), 0.2, 1.0)
    assert spans.u_bl.dtype == expected
    assert torch.equal(spans.u_bl.double() * TICKS, spans.ticks_bl.double())


def test_bounds_hold_exactly_where_the_nearest_tick_would_break_them():
    # 0.7 lies just above a tick that rounding would choose: ten such tokens would make six points, not seven.
    assert tick_range(0.7, 1.0)[0] * 10 >= 7 * TICKS
    assert round(0.7 * TICKS) * 10 < 7 * TICKS
    assert tick_range(0.0, 0.3)[1] * 10 <= 3 * TICKS


def test_intervals_never_vanish():
    spans = intervals(torch.full((1, 4), -1e9), 0.0, 0.5)
    assert spans.ticks_bl.tolist() == [[1, 1, 1, 1]]


def test_gradient_is_that_of_the_unrounded_formula():
    x_bl = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    (grad_bl,) = torch.autograd.grad(intervals(x_bl, 0.25, 1.0).u_bl.sum(), x_bl)
    s_bl = torch.sigmoid(x_bl.detach())
    assert torch.allclose(grad_bl, 0.75 * s_bl * (1 - s_bl))


def test_padding_is_zero_and_gets_no_gradient_even_from_nan():
    x_bl = torch.tensor([[0.3, float("nan"), float("inf")]], requires_grad=True)
    spans = intervals(x_bl, 0.5, 1.0, torch.tensor([[True, False, False]]))
    spans.u_bl.sum().backward()
    assert x_bl.grad is not None
    assert spans.u_bl[0, 1:].tolist() == [0.0, 0.0]
    assert len(set(spans.times_bl[0].tolist())) == 1
    assert spans.length_b.tolist() == [1]
    assert x_bl.grad[0, 0] > 0
    assert x_bl.grad[0, 1:].tolist() == [0.0, 0.0]


def test_nan_in_a_valid_token_is_not_hidden():
    assert intervals(torch.tensor([[0.0, float("nan")]]), 0.5, 1.0).u_bl.isnan().tolist() == [[False, True]]


def test_same_ticks_for_a_sequence_and_for_each_token_alone():
    # A float32 sigmoid fails here on CPUs with vector units: its scalar and its vector code differ in the last bit.
    x_bl = torch.randn(4, 1001, generator=torch.Generator().manual_seed(0))
    whole = intervals(x_bl, 0.0, 1.0).ticks_bl
    alone = torch.cat([intervals(x_bl[:, l : l + 1], 0.0, 1.0).ticks_bl for l in range(1001)], 1)
    assert torch.equal(whole, alone)


def test_long_sequences_keep_exact_times():
    ticks_bl = torch.randint(1, TICKS + 1, (1, 20_000), generator=torch.Generator().manual_seed(0))
    spans = fixed_point(ticks_bl.double() / TICKS, 0.0, 1.0)
    assert int(spans.times_bl[0, -1]) == sum(ticks_bl[0].tolist())


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches_pass(shape):
    assert intervals(torch.zeros(shape), 0.5, 1.0).times_bl.shape == shape


@pytest.mark.parametrize(("lo", "hi"), [(-0.1, 1.0), (0.6, 0.5), (0.5, 1.5), (0.0, 0.0), (float("nan"), 1.0)])
def test_bad_range_says_what_to_give(lo, hi):
    with pytest.raises(ValueError, match="lo=kappa, hi=1"):
        intervals(torch.zeros(1, 2), lo, hi)


@pytest.mark.parametrize("logits", [torch.zeros(2, 3, 1), torch.zeros(2, 3, dtype=torch.long)])
def test_bad_logits_are_named(logits):
    with pytest.raises(ValueError, match="logits_bl must be a float tensor of shape"):
        intervals(logits, 0.5, 1.0)


@pytest.mark.parametrize("mask", [torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 3)])
def test_bad_mask_is_named(mask):
    with pytest.raises(ValueError, match="mask_bl must be bool"):
        intervals(torch.zeros(2, 3), 0.5, 1.0, mask)


def test_mask_with_a_hole_says_where_padding_belongs():
    with pytest.raises(ValueError, match="padding must be at the end of each row"):
        intervals(torch.zeros(1, 3), 0.5, 1.0, torch.tensor([[True, False, True]]))
