"""Peak memory on a CPU: no window laid out beside the others, and an index stage that is linear in length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ssm_core.opkit.dispatch import numba_problem
from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import Intervals, intervals
from ssm_serpent.ops import encode, spread

B, L, D, H, W, G = 2, 4096, 128, 64, 6, 4


@pytest.fixture(params=["torch", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "numba" and numba_problem():
        pytest.skip(numba_problem())
    return request.param


def sizes(logit: float = -2.0) -> tuple[Intervals, Index, int]:
    spans = intervals(torch.randn(B, L, generator=torch.Generator().manual_seed(0)) + logit, 0.25, 1.0)
    index = resample_index(spans, W, "nearest")
    return spans, index, index.start_bk.numel()


def test_encode_lays_no_windows_side_by_side(backend: str, peak: Callable) -> None:
    _, index, points = sizes(2.0)
    tensors = (
        torch.randn(B, L, D),
        index.distance_bkw,
        torch.randn(H, W, D + G),
        torch.randn(H),
        torch.ones(G),
    )
    x, distance, weight, bias, mu = (t.requires_grad_() for t in tensors)

    def once() -> None:
        places = index.start_bk, index.inside_bkw
        encode(x, *places, distance, weight, bias, mu, mu, backend=backend).sum().backward()

    once()  # compiles, and makes room for the gradients that stay
    tile, m = 1 << 20, weight.numel()
    # The gradient of x, of M a few times, points and their gradient, basis functions and what their derivatives need,
    # a tile or two.
    allowed = 1.2 * B * L * D + 4 * m + 3 * points * H + 5 * points * W * G + 2.2 * tile
    careless = 2 * points * W * D
    found = peak(once) / 4
    assert allowed / 5 < found < allowed
    assert allowed < careless / 1.4


def test_spread_needs_its_output_and_gradients(backend: str, peak: Callable) -> None:
    _, index, points = sizes()
    y = torch.randn(*index.start_bk.shape, H, requires_grad=True)

    def once() -> None:
        spread(y, index.point_bl, backend=backend).sum().backward()

    once()
    assert peak(once) / 4 < 4.5 * B * L * H + 3 * points * H


@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_the_index_stage_is_linear(backend: str, mode: str, peak: Callable) -> None:
    """A hundredth of the table of distances from every point to every token, and of the sort of its rows."""
    spans, _, points = sizes()

    def once() -> None:
        resample_index(spans, W, mode, backend=backend)

    once()
    table = points * L * 4
    found = peak(once)
    assert found < 8 * (8 * B * L + 8 * points * W)
    if backend == "numba":
        assert found < table / 100
