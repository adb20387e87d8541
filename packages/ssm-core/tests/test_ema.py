"""The damped moving average against its recurrence, both ways and over gaps."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ssm_core.ema import EMA

F64 = torch.float64


def ema(causal: bool = True, d: int = 3, n: int = 4) -> EMA:
    torch.manual_seed(0)
    return EMA(d, n, causal=causal).double()


def recurrence(
    ema: EMA, way: int, x: torch.Tensor, gaps: torch.Tensor | None = None, h: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_n gamma h / sqrt(N) of the damped recurrence in its plainest form, and the last h."""
    p, s = ema.delta[way].sigmoid(), ema.alpha[way].sigmoid()
    q, scale = 1 - p * s, 1 / math.sqrt(p.shape[1])
    h = x.new_zeros(len(x), *p.shape) if h is None else h
    out = []
    for t in range(x.shape[1]):
        g = x.new_ones(len(x), 1, 1) if gaps is None else gaps[:, t, None, None]
        h = q**g * h + p * ema.beta[way] * (1 - q**g) / (1 - q) * x[:, t, :, None]
        out.append((ema.gamma[way] * h).sum(-1) * scale)
    return torch.stack(out, 1), h


@pytest.mark.parametrize("irregular", [False, True])
def test_the_average_is_the_recurrence(irregular: bool) -> None:
    layer = ema()
    x, h = torch.randn(2, 9, 3, dtype=F64), torch.randn(2, 3, 4, dtype=F64)
    gaps = 0.1 + 3 * torch.rand(2, 9, dtype=F64) if irregular else None
    expected, last = recurrence(layer, 0, x, gaps, h)
    y, state = layer(x, dt_bl=gaps, state={"h": h})
    torch.testing.assert_close(y, F.silu(expected + layer.omega * x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state["h"], last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("irregular", [False, True])
def test_both_directions_see_the_element_itself(irregular: bool) -> None:
    layer = ema(causal=False)
    x, other = torch.randn(2, 2, 9, 3, dtype=F64)
    gaps = 0.1 + 3 * torch.rand(2, 9, dtype=F64) if irregular else None
    after = None if gaps is None else torch.cat([gaps[:, 1:], torch.ones(2, 1, dtype=F64)], 1).flip(1)
    forwards, _ = recurrence(layer, 0, x, gaps)
    for reverse, given in ((x, None), (other, other)):
        backwards, _ = recurrence(layer, 1, reverse.flip(1), after)
        y, state = layer(x, dt_bl=gaps, x_reverse_bld=given)
        expected = F.silu(forwards + backwards.flip(1) + layer.omega * x)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        assert state == ()


def test_a_gap_of_three_is_three_steps_with_the_input_held() -> None:
    layer = ema()
    x = torch.randn(2, 1, 3, dtype=F64)
    _, once = layer(x, dt_bl=torch.full((2, 1), 3.0, dtype=F64))
    _, thrice = layer(x.expand(2, 3, 3))
    torch.testing.assert_close(once["h"], thrice["h"], rtol=1e-12, atol=1e-12)


def test_extreme_rates_stay_finite() -> None:
    layer = EMA(2, 2)
    with torch.no_grad():
        layer.delta.copy_(torch.tensor([[[60.0, -60.0], [200.0, -200.0]]]))
        layer.alpha.copy_(torch.tensor([[[60.0, 60.0], [200.0, 200.0]]]))
    x = torch.randn(1, 5, 2)
    for gaps in (None, torch.full((1, 5), 0.5)):
        y, _ = layer(x, dt_bl=gaps)
        y.sum().backward()
        assert y.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    y, _ = layer.step(x[:, 0], dt_b=torch.full((1,), 0.5), state=layer.init_state(1))
    assert y.isfinite().all()
