"""Distances and the gradient they give the intervals: properties 18 and 19 of spec/serpent.md section 8."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import TICKS, intervals
from ssm_serpent.testing import from_ticks, windows_of

each_mode = pytest.mark.parametrize("mode", ["nearest", "causal"])
unhurried = settings(deadline=None)

TICK_VALUES = st.sampled_from([n * TICKS // 8 for n in range(1, 9)]) | st.integers(1, TICKS)


def rows(min_size: int = 1) -> st.SearchStrategy[list[int]]:
    return st.lists(TICK_VALUES, min_size=min_size, max_size=40)


@each_mode
@unhurried
@given(ticks=rows(), window=st.integers(1, 9))
def test_19_distances_are_bounded_by_the_window(device, mode, ticks, window):
    spans = from_ticks([ticks], device)
    index = resample_index(spans, window, mode)
    if mode == "causal":
        assert bool((index.distance_bkw < 1).all())
        assert bool((index.distance_bkw >= 1 - window).all())
        return
    assume(int(spans.times_bl[0, -1]) >= TICKS // 2)
    assert bool((index.distance_bkw.abs() <= window - 0.5).all())


@each_mode
@unhurried
@given(batch=st.lists(rows(min_size=0), min_size=1, max_size=3), window=st.integers(1, 9), data=st.data())
def test_18_gradient_is_the_reverse_running_sum(device, mode, batch, window, data):
    """Whole-number upstream gradients make the float64 sums exact, so the definition is met bit for bit."""
    spans = from_ticks(batch, device)
    u_bl = spans.u_bl.clone().requires_grad_()
    index = resample_index(spans._replace(u_bl=u_bl), window, mode)
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    weight_bkw = torch.randint(-9, 10, index.inside_bkw.shape, generator=generator).double()
    (grad_bl,) = torch.autograd.grad((index.distance_bkw * weight_bkw.to(device)).sum(), u_bl)
    expected_bl = torch.zeros(u_bl.shape, dtype=torch.float64)
    index = Index(*(field.detach().cpu() for field in index))
    for b in range(len(batch)):
        for block, weight, inside in zip(
            windows_of(index, b), weight_bkw[b], index.inside_bkw[b], strict=False
        ):
            for token, w in zip(block, weight[inside].tolist(), strict=True):
                expected_bl[b, : token + 1] += w
    assert torch.equal(grad_bl.cpu(), expected_bl)


@each_mode
@unhurried
@given(ticks=rows(min_size=3), window=st.integers(1, 5), data=st.data())
def test_18_gradient_equals_finite_differences_where_no_index_moves(device, mode, ticks, window, data):
    """A step of one tick: the differences are exact, not approximate."""
    i = data.draw(st.integers(0, len(ticks) - 1))
    assume(ticks[i] < TICKS)
    bumped = [*ticks[:i], ticks[i] + 1, *ticks[i + 1 :]]
    spans = from_ticks([ticks], device)
    u_bl = spans.u_bl.clone().requires_grad_()
    before = resample_index(spans._replace(u_bl=u_bl), window, mode)
    after = resample_index(from_ticks([bumped], device), window, mode)
    assume(torch.equal(before.count_b, after.count_b) and torch.equal(before.start_bk, after.start_bk))
    assume(before.distance_bkw.numel() > 0)
    weight_bkw = torch.arange(1.0, before.distance_bkw.numel() + 1, dtype=torch.float64, device=device)
    weight_bkw = weight_bkw.view_as(before.distance_bkw)
    (grad_bl,) = torch.autograd.grad((before.distance_bkw * weight_bkw).sum(), u_bl)
    slope = ((after.distance_bkw - before.distance_bkw.detach()) * weight_bkw).sum() * TICKS
    assert float(grad_bl[0, i]) == float(slope)


@each_mode
@unhurried
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    kappa=st.sampled_from([1.0, 0.5, 0.3, 0.1]),
)
def test_18_gradient_is_finite_when_saturated_and_when_no_point_is_made(device, mode, logits, kappa):
    x_bl = torch.tensor([logits, [float("nan")] * len(logits)], device=device, requires_grad=True)
    mask_bl = torch.tensor([[True], [False]], device=device).expand_as(x_bl)
    index = resample_index(intervals(x_bl, 0.0, kappa, mask_bl), 3, mode)
    index.distance_bkw.square().sum().backward()
    assert x_bl.grad is not None
    assert bool(x_bl.grad.isfinite().all())
    assert not x_bl.grad[1].any()
    assert not index.point_bl.requires_grad


@each_mode
def test_backward_of_the_distances_is_twice_differentiable_and_deterministic(mode, device):
    x_bl = torch.randn(3, 50, dtype=torch.float64, device=device, requires_grad=True)
    grads = []
    for _ in range(2):
        index = resample_index(intervals(x_bl, 0.2, 1.0), 5, mode)
        (grad_bl,) = torch.autograd.grad(index.distance_bkw.square().sum(), x_bl, create_graph=True)
        grads.append(grad_bl)
    assert torch.equal(grads[0], grads[1])
    (second_bl,) = torch.autograd.grad(grads[0].sum(), x_bl)
    assert bool(second_bl.isfinite().all())


@each_mode
@pytest.mark.parametrize("grad", ["full", "local"])
@pytest.mark.parametrize("rows", [1, 2])
def test_backward_of_long_rows_is_the_same_bits_in_every_run(mode, grad, rows, device):
    """A GPU's scan of one long row is not, left to itself."""
    generator = torch.Generator().manual_seed(0)
    x_bl = torch.randn(rows, 100_000, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    index = resample_index(intervals(x_bl, 0.2, 1.0), 5, mode, grad=grad)
    weight_bkw = torch.randn(index.inside_bkw.shape, generator=generator, dtype=torch.float64).to(device)
    loss = (index.distance_bkw * weight_bkw).sum()
    first, *others = (torch.autograd.grad(loss, x_bl, retain_graph=True)[0] for _ in range(6))
    assert all(torch.equal(first, other) for other in others)


@each_mode
@unhurried
@given(
    batch=st.lists(rows(min_size=0), min_size=1, max_size=3),
    window=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_local_gradient_is_that_of_the_two_brackets(device, mode, batch, window, seed):
    """d = (S_token - S_c) + (S_c - k) in floats under ordinary autograd, S_{c - 1} of the second bracket a constant."""
    spans = from_ticks(batch, device)
    u_bl = spans.u_bl.clone().requires_grad_()
    index = resample_index(spans._replace(u_bl=u_bl), window, mode, grad="local")
    generator = torch.Generator().manual_seed(seed)
    weight_bkw = torch.randint(-9, 10, index.inside_bkw.shape, generator=generator).double().to(device)
    (grad_bl,) = torch.autograd.grad((index.distance_bkw * weight_bkw).sum(), u_bl)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for b in range(len(batch)):
        times = u_bl[b].cumsum(0)
        for k, event in enumerate(index.event_bk[b, : int(index.count_b[b])].tolist()):
            before = times[event] - u_bl[b, event]
            for j in index.inside_bkw[b, k].nonzero().flatten().tolist():
                token = int(index.start_bk[b, k]) + j
                d = (times[token] - times[event]) + (before.detach() + u_bl[b, event] - (k + 1))
                assert float(d.detach()) == pytest.approx(
                    float(index.distance_bkw[b, k, j].detach()), abs=1e-9
                )
                total = total + weight_bkw[b, k, j] * d
    expected_bl = torch.zeros_like(u_bl)
    if total.requires_grad:
        (expected_bl,) = torch.autograd.grad(total, u_bl, materialize_grads=True)
    torch.testing.assert_close(grad_bl, expected_bl, rtol=0, atol=1e-9)
    held = torch.zeros_like(u_bl, dtype=torch.bool)
    for b in range(len(batch)):
        held[b, [token for block in windows_of(Index(*(f.cpu() for f in index)), b) for token in block]] = (
            True
        )
    assert not grad_bl[~held].any()


def test_local_gradient_does_not_grow_with_length():
    """All slots pull the same way: the first interval then feels every window, or its own."""
    sizes = {}
    for grad in ("full", "local"):
        for length in (256, 4096):
            x_bl = torch.zeros(1, length, dtype=torch.float64, requires_grad=True)
            index = resample_index(intervals(x_bl, 0.2, 1.0), 5, "nearest", grad=grad)
            (grad_bl,) = torch.autograd.grad(index.distance_bkw.sum(), x_bl)
            sizes[grad, length] = float(grad_bl.abs().max())
    assert sizes["full", 4096] > 10 * sizes["full", 256]
    assert sizes["local", 4096] == pytest.approx(sizes["local", 256])
