from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.gaps import effective_gaps


def by_loop(dt, mask, reset, pending):
    """The definition: masked elements hand their gap on, a reset forgets what was handed on."""
    gaps = torch.zeros_like(dt)
    left = pending.clone()
    for row in range(len(dt)):
        for time in range(dt.shape[1]):
            if reset is not None and reset[row, time]:
                left[row] = 0
            if mask is None or mask[row, time]:
                gaps[row, time] = left[row] + dt[row, time]
                left[row] = 0
            elif dt[row, time].isfinite():
                left[row] += dt[row, time]
    return gaps, left


@st.composite
def rows(draw):
    b, l = draw(st.integers(1, 3)), draw(st.integers(0, 9))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dt = 0.5 + torch.rand(b, l, generator=seed, dtype=torch.float64)
    mask = torch.rand(b, l, generator=seed) > 0.4 if draw(st.booleans()) else None
    reset = torch.rand(b, l, generator=seed) < 0.3 if draw(st.booleans()) else None
    pending = torch.rand(b, generator=seed, dtype=torch.float64) * draw(st.sampled_from((0.0, 3.0)))
    return dt, mask, reset, pending


@given(rows())
def test_gaps_are_those_of_a_loop(drawn) -> None:
    dt, mask, reset, pending = drawn
    gaps, left = effective_gaps(dt, mask, reset, pending)
    expected, expected_left = by_loop(dt, mask, reset, pending)
    torch.testing.assert_close(gaps, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left, expected_left, rtol=1e-12, atol=1e-12)


@given(rows())
def test_no_time_is_lost(drawn) -> None:
    dt, mask, _, pending = drawn
    gaps, left = effective_gaps(dt, mask, None, pending)
    torch.testing.assert_close(gaps.sum(1) + left, dt.sum(1) + pending, rtol=1e-12, atol=1e-12)


@given(rows(), st.integers(0, 9))
def test_pieces_give_what_the_whole_gives(drawn, cut: int) -> None:
    dt, mask, reset, pending = drawn
    whole, left = effective_gaps(dt, mask, reset, pending)
    first, second = (
        [None if t is None else t[:, part] for t in drawn[:3]] for part in (slice(cut), slice(cut, None))
    )
    gaps, held = effective_gaps(*first, pending)
    more, held = effective_gaps(*second, held)
    torch.testing.assert_close(torch.cat([gaps, more], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(held, left, rtol=1e-12, atol=1e-12)


@given(rows())
def test_padding_may_hold_nonsense(drawn) -> None:
    dt, mask, reset, pending = drawn
    if mask is None:
        return
    clean, left = effective_gaps(dt.masked_fill(~mask, 0), mask, reset, pending)
    for value in (torch.nan, torch.inf, -torch.inf):
        gaps, held = effective_gaps(dt.masked_fill(~mask, value), mask, reset, pending)
        assert torch.equal(gaps, clean)
        assert torch.equal(held, left)


@given(rows())
def test_gradients_are_those_of_a_loop(drawn) -> None:
    dt, mask, reset, pending = drawn
    found = []
    for function in (effective_gaps, by_loop):
        given_dt, given_pending = dt.clone().requires_grad_(), pending.clone().requires_grad_()
        gaps, left = function(given_dt, mask, reset, given_pending)
        weights = torch.arange(1, gaps.numel() + 1, dtype=gaps.dtype).view(gaps.shape)
        total = (gaps * weights).sum() + 3 * left.sum() + 0 * given_dt.sum() + 0 * given_pending.sum()
        found.append(torch.autograd.grad(total, (given_dt, given_pending)))
    for ours, loops in zip(*found, strict=True):
        torch.testing.assert_close(ours, loops, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaps_do_not_drift_over_long_rows(dtype: torch.dtype) -> None:
    dt = torch.full((1, 100_000), 0.1, dtype=dtype)
    mask = torch.ones(1, 100_000, dtype=torch.bool)
    mask[0, -3] = False
    gaps, _ = effective_gaps(dt, mask, None, torch.zeros(1, dtype=dtype))
    assert torch.equal(gaps[:, :-3], dt[:, :-3])
    assert gaps[0, -2].item() == pytest.approx(0.2, rel=1e-6)


def test_no_gaps_is_gaps_of_one() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    gaps, left = effective_gaps(None, mask, None, torch.zeros(2))
    assert gaps.tolist() == [[1, 0, 2], [0, 0, 3]]
    assert left.tolist() == [0, 0]
