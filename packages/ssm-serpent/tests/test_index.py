"""The index maps on worked examples, their edges, errors, and the promise of the static form not to wait."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_serpent.index import Index, max_points, resample_index
from ssm_serpent.intervals import TICKS, fixed_point, intervals
from ssm_serpent.reference import reference_index
from ssm_serpent.spec import SerpentConfig
from ssm_serpent.testing import windows_of

FIGURE_2 = [0.1, 0.2, 0.2, 0.4, 0.2, 0.1, 0.5, 0.5, 0.1, 0.1, 0.2, 0.2, 0.4]


def row(values: list[float], device: str = "cpu", dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([values], device=device, dtype=dtype)


def test_figure_2_of_the_paper(device):
    """Multiples of the spacing are crossed at tokens 5, 8, 13; windows of three end there (tokens from 1)."""
    index = resample_index(fixed_point(row(FIGURE_2, device), 0.0, 1.0), 3, "causal")
    assert index.count_b.tolist() == [3]
    assert index.event_bk.tolist() == [[4, 7, 12]]
    assert index.start_bk.tolist() == [[2, 5, 10]]
    assert index.inside_bkw.all()
    assert index.point_bl.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3]]
    distance = torch.tensor([[[-0.5, -0.1, 0.1], [-0.8, -0.3, 0.2], [-0.4, -0.2, 0.2]]], device=device)
    assert torch.allclose(index.distance_bkw.float(), distance, atol=2e-6, rtol=0)


def test_figure_2_with_nearest_windows(device):
    """Times .1 .3 .5 .9 1.1 1.2 1.7 2.2 2.3 2.4 2.6 2.8 3.2: the last token is nearest to 3, at .2."""
    index = resample_index(fixed_point(row(FIGURE_2, device), 0.0, 1.0), 3, "nearest")
    assert index.start_bk.tolist() == [[3, 6, 10]]
    assert index.point_bl.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]]


def test_trailing_window_starts_before_the_sequence():
    index = resample_index(fixed_point(row([0.5, 0.5, 1.0]), 0.0, 1.0), 3, "causal")
    assert index.start_bk.tolist() == [[-1, 0]]
    assert index.inside_bkw.tolist() == [[[False, True, True], [True, True, True]]]
    assert index.distance_bkw.tolist() == [[[0.0, -0.5, 0.0], [-1.5, -1.0, 0.0]]]


def test_nearest_window_wider_than_the_sequence():
    index = resample_index(fixed_point(row([0.75, 0.75]), 0.0, 1.0), 4, "nearest")
    assert index.count_b.tolist() == [1]
    assert index.inside_bkw.tolist() == [[[True, True, False, False]]]


def test_short_row_makes_one_nearest_point_and_no_causal_one():
    spans = fixed_point(row([0.125, 0.125]).requires_grad_(), 0.0, 1.0)
    nearest = resample_index(spans, 1, "nearest")
    assert nearest.count_b.tolist() == [1]
    assert nearest.event_bk.tolist() == [[1]]
    assert nearest.point_bl.tolist() == [[1, 1]]
    causal = resample_index(spans, 1, "causal")
    assert causal.count_b.tolist() == [0]
    assert causal.distance_bkw.shape == (1, 0, 1)
    assert causal.point_bl.tolist() == [[0, 0]]
    (grad_bl,) = torch.autograd.grad(causal.distance_bkw.sum(), spans.u_bl)
    assert grad_bl.tolist() == [[0.0, 0.0]]


def covered(u: list[float], lo: float, hi: float, window: int, mode: Any) -> list[bool]:
    """Whether each token that a window is promised to is in one."""
    spans = fixed_point(row(u), lo, hi)
    held = {token for block in windows_of(resample_index(spans, window, mode)) for token in block}
    times = spans.times_bl[0].tolist()
    last = max(
        (l for l, s in enumerate(times) if s // TICKS > (times[l - 1] if l else 0) // TICKS), default=-1
    )
    promised = [l <= last if mode == "causal" else 2 * s >= TICKS for l, s in enumerate(times)]
    return [token in held for token in range(len(u)) if promised[token]]


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@settings(deadline=None)
@given(
    kappa=st.sampled_from([1.0, 0.7, 0.5, 0.3, 0.25]),
    bounds=st.sampled_from(["floor", "capped"]),
    shares=st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=40),
)
def test_11_windows_of_one_over_the_smallest_interval_cover_all_tokens(mode, kappa, bounds, shares):
    lo, hi = SerpentConfig(bounds=bounds).interval_range(kappa)
    window = math.ceil(1 / lo) + (mode == "nearest")
    assert all(covered([lo + (hi - lo) * share for share in shares], lo, hi, window, mode))


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize("bounds", ["capped", "cap"])
def test_11_windows_of_one_over_kappa_do_not_where_intervals_are_shorter(mode, bounds):
    lo, hi = SerpentConfig(bounds=bounds).interval_range(0.5)
    assert not all(covered([0.125] * 40, lo, hi, 2 + (mode == "nearest"), mode))


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
@pytest.mark.parametrize("size", [None, 4])
def test_empty_batches_pass(mode, shape, size):
    x_bl = torch.zeros(shape, requires_grad=True)
    index = resample_index(intervals(x_bl, 0.5, 1.0), 3, mode, max_points=size)
    assert index.point_bl.shape == shape
    assert not index.valid_bk.any()
    index.distance_bkw.sum().backward()


@pytest.mark.parametrize("mode", ["nearest", "causal"])
@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_every_short_row_on_a_coarse_lattice_equals_the_reference(mode, window, device):
    """All 1,364 rows of one to five intervals in quarters: every tie and edge a short row can have."""
    batch = [list(ticks) for n in range(1, 6) for ticks in product(range(1, 5), repeat=n)]
    u_bl = torch.zeros(len(batch), 5, dtype=torch.float64)
    for values, ticks in zip(u_bl, batch, strict=True):
        values[: len(ticks)] = torch.tensor(ticks) / 4
    spans = fixed_point(u_bl.to(device), 0.0, 1.0, (u_bl > 0).to(device))
    index = Index(*(field.cpu() for field in resample_index(spans, window, mode)))
    token_bkw = index.start_bk[:, :, None] + torch.arange(window)
    for b, ticks in enumerate(batch):
        expected = reference_index([n * TICKS // 4 for n in ticks], window, mode)
        blocks = [
            [t for t, ok in zip(ts, oks, strict=True) if ok]
            for ts, oks in zip(token_bkw[b].tolist(), index.inside_bkw[b].tolist(), strict=True)
        ]
        assert blocks[: expected.n_points] == expected.windows
        assert not any(blocks[expected.n_points :])
        assert index.event_bk[b, : expected.n_points].tolist() == expected.events
        assert index.point_bl[b, : len(ticks)].tolist() == expected.points


def test_static_form_compiles_whole_so_nothing_waits_for_the_device():
    """Reading a value on the host would break the graph, and `fullgraph` makes that an error."""

    def loss(x_bl, mask_bl, mode):
        spans = intervals(x_bl, 0.2, 1.0, mask_bl)
        index = resample_index(spans, 5, mode, max_points=max_points(x_bl.shape[1], 1.0, mode))
        return index.distance_bkw.square().sum(), index.point_bl

    x_bl = torch.randn(3, 40, requires_grad=True)
    mask_bl = torch.arange(40) < torch.tensor([40, 17, 0])[:, None]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    # One test for both modes: most of its time is loading the compiler, which each worker would pay.
    for mode in ("nearest", "causal"):
        (value, point_bl), (expected, expected_bl) = compiled(x_bl, mask_bl, mode), loss(x_bl, mask_bl, mode)
        assert torch.equal(point_bl, expected_bl)
        assert torch.equal(value, expected)
        (grad_bl,) = torch.autograd.grad(value, x_bl)
        assert torch.equal(grad_bl, torch.autograd.grad(expected, x_bl)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_static_form_never_synchronises_on_cuda(mode):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; none is visible to torch")
    x_bl = torch.randn(3, 40, device="cuda", requires_grad=True)
    mask_bl = torch.ones_like(x_bl, dtype=torch.bool)
    torch.cuda.set_sync_debug_mode("error")
    try:
        size = max_points(40, 1.0, mode)
        index = resample_index(intervals(x_bl, 0.2, 1.0, mask_bl), 5, mode, max_points=size)
        index.distance_bkw.square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("length", "hi", "mode", "expected"),
    [
        (10, 1.0, "causal", 10),
        (10, 1.0, "nearest", 10),
        (9, 0.25, "causal", 2),
        (11, 0.25, "nearest", 3),
        (10, 0.25, "nearest", 2),
        (1, 0.25, "causal", 0),
        (1, 0.25, "nearest", 1),
        (0, 1.0, "nearest", 0),
    ],
)
def test_static_bound(length, hi, mode, expected):
    assert max_points(length, hi, mode) == expected


def test_too_small_a_buffer_says_how_to_size_it():
    spans = intervals(torch.zeros(1, 8), 1.0, 1.0)
    with pytest.raises(ValueError, match="max_points=7 is less than the number of points"):
        resample_index(spans, 1, "causal", max_points=7)


def test_bad_arguments_are_named():
    spans = intervals(torch.zeros(1, 8), 1.0, 1.0)
    with pytest.raises(ValueError, match="window=0"):
        resample_index(spans, 0, "causal")
    with pytest.raises(ValueError, match="mode='trailing'"):
        resample_index(spans, 1, "trailing")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="mode='both'"):
        max_points(8, 1.0, "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_points=-1"):
        resample_index(spans, 1, "causal", max_points=-1)


def test_importing_the_package_and_the_reference_loads_no_torch():
    code = "import sys, ssm_serpent, ssm_serpent.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
