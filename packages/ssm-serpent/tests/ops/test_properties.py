"""Properties 7 to 10 and 18 of section 8 of spec/serpent.md: resampling there and back, and its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import TICKS, fixed_point, intervals
from ssm_serpent.ops import encode, spread
from ssm_serpent.testing import from_ticks

each_mode = pytest.mark.parametrize("mode", ["nearest", "causal"])
unhurried = settings(deadline=None)
TICK_VALUES = st.sampled_from([n * TICKS // 8 for n in range(1, 9)]) | st.integers(1, TICKS)
BATCHES = st.lists(st.lists(TICK_VALUES, max_size=20), min_size=1, max_size=3)


def compress(where, index: Index, x_bld: Tensor) -> Tensor:
    """Windows of one token, read as they are: M = [I | 0], c = 0, one basis function."""
    width = x_bld.shape[2]
    eye = torch.eye(width, width + 1, dtype=x_bld.dtype, device=x_bld.device)[:, None]
    none, one = torch.zeros(width).to(x_bld), torch.ones(1).to(x_bld)
    places = index.start_bk, index.inside_bkw, index.distance_bkw
    return encode(x_bld, *places, eye, none, one, one, backend=where.backend)


def noise(where, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(where.device)


@each_mode
@unhurried
@given(batch=BATCHES)
def test_7_there_and_back_keeps_the_length(where, mode, batch):
    index = resample_index(from_ticks(batch, where.device), 1, mode)
    x_bld = noise(where, *index.point_bl.shape, 3)
    points = compress(where, index, x_bld)
    assert points.shape == (len(batch), int(index.count_b.max()), 3)
    assert spread(points, index.point_bl, backend=where.backend).shape == x_bld.shape


@each_mode
@unhurried
@given(length=st.integers(1, 30), logit=st.floats(-50, 50))
def test_8_no_compression_is_the_identity_both_ways(where, mode, length, logit):
    index = resample_index(intervals(torch.full((2, length), logit, device=where.device), 1.0, 1.0), 1, mode)
    x_bld = noise(where, 2, length, 3)
    points = compress(where, index, x_bld)
    assert torch.equal(points, x_bld)
    assert torch.equal(spread(points, index.point_bl, backend=where.backend), x_bld)


@each_mode
@unhurried
@given(batch=BATCHES)
def test_9_spreading_and_compressing_gives_the_points_back(where, mode, batch):
    index = resample_index(from_ticks(batch, where.device), 1, mode)
    points = noise(where, *index.start_bk.shape, 3)
    again = compress(where, index, spread(points, index.point_bl, backend=where.backend))
    tie_bk = (index.distance_bkw.abs() == 0.5).any(2) if mode == "nearest" else ~index.valid_bk
    kept = index.valid_bk & ~tie_bk
    assert torch.equal(again[kept], points[kept])


@each_mode
@unhurried
@given(batch=BATCHES, value=st.floats(-100, 100, width=32))
def test_10_a_constant_stays_what_it_is(where, mode, batch, value):
    index = resample_index(from_ticks(batch, where.device), 1, mode)
    x_bld = torch.full((*index.point_bl.shape, 2), value, dtype=torch.float64, device=where.device)
    out = spread(compress(where, index, x_bld), index.point_bl, backend=where.backend)
    reached = index.point_bl > 0
    assert torch.equal(out[reached], x_bld[reached])
    assert not out[~reached].any()
    lengths = torch.tensor([len(row) for row in batch], device=where.device)
    first = (
        index.event_bk[:, 0] if mode == "causal" and index.event_bk.shape[1] else torch.zeros_like(lengths)
    )
    first = first.where(index.count_b > 0, lengths) if mode == "causal" else first
    token = torch.arange(reached.shape[1], device=where.device)
    assert torch.equal(reached, (token >= first[:, None]) & (token < lengths[:, None]))


def loss_of(where, u_bl: Tensor, window: int, mode: str, grad: str = "full") -> tuple[Tensor, Index]:
    """A smooth function of the points that windows of u give."""
    index = resample_index(fixed_point(u_bl, 0.0, 1.0), window, mode, grad=grad, backend=where.backend)
    x_bld, weight = noise(where, *u_bl.shape, 2), noise(where, 3, window, 4)
    mu = torch.tensor([-0.5, 0.25], dtype=torch.float64, device=where.device)
    places = index.start_bk, index.inside_bkw, index.distance_bkw
    y_bkh = encode(x_bld, *places, weight, None, mu, 0 * mu, backend=where.backend)
    return spread(torch.tanh(y_bkh), index.point_bl, backend=where.backend).square().sum(), index


@each_mode
@unhurried
@given(ticks=st.lists(TICK_VALUES, min_size=3, max_size=12), window=st.integers(1, 4), data=st.data())
def test_18_gradient_of_the_whole_equals_finite_differences(where, mode, ticks, window, data):
    """Where no index moves: central differences of 64 ticks, whose own error is some 1e-9."""
    i, step = data.draw(st.integers(0, len(ticks) - 1)), 64 / TICKS
    assume(64 < ticks[i] <= TICKS - 64)
    u_bl = torch.tensor([ticks], dtype=torch.float64, device=where.device) / TICKS
    bump = torch.zeros_like(u_bl)
    bump[0, i] = step
    high, index_high = loss_of(where, u_bl + bump, window, mode)
    low, index_low = loss_of(where, u_bl - bump, window, mode)
    u_bl.requires_grad_()
    value, index = loss_of(where, u_bl, window, mode)
    for other in (index_high, index_low):
        assume(torch.equal(other.count_b, index.count_b) and torch.equal(other.start_bk, index.start_bk))
        assume(torch.equal(other.point_bl, index.point_bl))
    (grad,) = torch.autograd.grad(value, u_bl) if value.requires_grad else (torch.zeros_like(u_bl),)
    slope = float(high - low) / (2 * step)
    assert float(grad[0, i]) == pytest.approx(slope, rel=1e-6, abs=1e-6 * max(1.0, float(grad.abs().max())))


@each_mode
@pytest.mark.parametrize("grad", ["full", "local"])
@unhurried
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    kappa=st.sampled_from([1.0, 0.5, 0.1]),
)
def test_18_every_gradient_is_finite(where, mode, grad, logits, kappa):
    """Saturated intervals, rows without a point and rows of padding."""
    logit_bl = torch.tensor([logits, [torch.nan] * len(logits)], device=where.device, requires_grad=True)
    mask_bl = torch.tensor([[True], [False]], device=where.device).expand_as(logit_bl)
    spans = intervals(logit_bl, 0.0, kappa, mask_bl)
    index = resample_index(spans, 3, mode, grad=grad, backend=where.backend)
    x_bld = noise(where, *logit_bl.shape, 2).where(mask_bl[..., None], torch.nan).requires_grad_()
    weight, mu = (noise(where, *shape).requires_grad_() for shape in ((2, 3, 4), (2,)))
    places = index.start_bk, index.inside_bkw, index.distance_bkw
    y_bkh = encode(x_bld, *places, weight, weight[:, 0, 0], mu, mu, backend=where.backend)
    out = spread(y_bkh, index.point_bl, backend=where.backend)
    leaves = logit_bl, x_bld, weight, mu
    found = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    assert all(x.isfinite().all() for x in found)
    assert not found[0][1].any()
    assert not found[1][1].any()


def test_18_no_gradient_through_the_map_back(where):
    """Points that do not depend on the intervals give them none, whichever tokens read which."""
    logit_bl = noise(where, 2, 20).requires_grad_()
    index = resample_index(intervals(logit_bl, 0.2, 1.0), 3, "nearest", backend=where.backend)
    out = spread(noise(where, *index.start_bk.shape, 2), index.point_bl, backend=where.backend)
    assert not out.requires_grad
    assert [name for name, x in index._asdict().items() if x.requires_grad] == ["distance_bkw"]
