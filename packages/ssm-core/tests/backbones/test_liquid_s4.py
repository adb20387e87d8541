"""Liquid-S4 keeps the mixer contract, and is the sum over index sets that it claims to be, by brute force."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.liquid_s4.layer import LiquidS4
from ssm_core.backbones.liquid_s4.spec import LiquidS4Config
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.plugin.spec import Capabilities
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 4, "dt_min": 0.05, "dt_max": 0.5, "start": "lin"}


class TestBlock(MixerSuite):
    backbone = "liquid_s4"
    config = QUICK | {"order": 3}
    widths = (1, 3)
    capabilities = Capabilities(dt=False)
    causal_tolerance = 1e-6  # by FFT


class _Scan(MixerSuite):
    backbone = "liquid_s4"
    part = "ssm"
    widths = (1, 2, 5, 16)

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():
            mixer.log_dt += math.log(factor)
        return mixer


@pytest.mark.slow
class TestExactBlock(MixerSuite):
    backbone = "liquid_s4"
    config = QUICK | {"mode": "exact"}
    widths = (1, 3)


@pytest.mark.slow
class TestExact(_Scan):
    config = QUICK | {"mode": "exact", "discretization": "zoh", "n_ssm": 0}


@pytest.mark.slow
class TestTruncated(_Scan):
    config = QUICK | {"mode": "kb", "order": 3}


@pytest.mark.slow
class TestPlain(MixerSuite):
    backbone = "liquid_s4"
    part = "ssm"
    config = QUICK | {"order": 4, "normalize": "none", "start": "legs"}
    widths = (1, 2, 5, 16)
    capabilities = Capabilities(dt=False)
    causal_tolerance = 1e-6


def layer(**knobs: Any) -> LiquidS4:
    torch.manual_seed(0)
    return LiquidS4(2, LiquidS4Config(**{**QUICK, **knobs})).double()


def discrete(liquid: LiquidS4, gap: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """A and B of one step, (H, N) with conjugates written out, by the textbook formulas."""
    a = torch.complex(-liquid.A_real.exp(), -liquid.A_imag).repeat(2 // len(liquid.A_real), 1)
    b = torch.view_as_complex(liquid.B).repeat(2 // len(liquid.B), 1)
    a, b = torch.cat([a, a.conj()], 1), torch.cat([b, b.conj()], 1)
    z = liquid.log_dt.exp()[:, None] * gap
    if liquid.config.discretization == "zoh":
        return torch.exp(z * a), (torch.exp(z * a) - 1) / a * b
    return (1 + z * a / 2) / (1 - z * a / 2), z / (1 - z * a / 2) * b


def brute_force(liquid: LiquidS4, u: Tensor, orders: int, damped: bool) -> Tensor:
    """y_k = C sum_p sum_{i_1 < ... < i_p <= k} A^(k - i_1 - p + 1) B^p u_{i_1} ... u_{i_p}, every set by itself.

    Not damped: with A = 1 in the terms of p >= 2.
    """
    a, b = discrete(liquid)
    c = torch.view_as_complex(liquid.C)
    c = torch.cat([c, c.conj()], 1)
    y = torch.zeros_like(u)
    for row in range(u.shape[0]):
        for k in range(u.shape[1]):
            for p in range(1, min(orders, k + 1) + 1):
                for chosen in combinations(range(k + 1), p):
                    decay = a ** (k - chosen[0] - p + 1) if damped or p == 1 else 1
                    y[row, k] += (c * decay * b**p).sum(1).real * u[row, list(chosen)].prod(0)
    return y + liquid.D * u


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_exact_is_its_expansion_of_full_order(discretization: str) -> None:
    liquid, u = layer(mode="exact", bound="none", discretization=discretization), draw(7)
    with torch.no_grad():
        expected = brute_force(liquid, u, orders=7, damped=True)
        torch.testing.assert_close(liquid(u)[0], expected, rtol=1e-10, atol=1e-10)
        bounded = layer(mode="exact", discretization=discretization)
        assert not torch.allclose(bounded(u)[0], expected), "the bound has nothing to do here"


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kb_is_the_expansion_up_to_its_order(order: int) -> None:
    liquid, u = layer(mode="kb", order=order), draw(7)
    with torch.no_grad():
        torch.testing.assert_close(
            liquid(u)[0], brute_force(liquid, u, order, damped=True), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_pb_is_the_expansion_without_damping_beyond_the_first_order(order: int) -> None:
    liquid, u = layer(mode="pb", order=order, normalize="none"), draw(7)
    with torch.no_grad():
        torch.testing.assert_close(
            liquid(u)[0], brute_force(liquid, u, order, damped=False), rtol=1e-9, atol=1e-9
        )


def draw(length: int) -> Tensor:
    return 2 * torch.randn(2, length, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_kb_of_full_order_is_exact() -> None:
    u, gaps = draw(6), 3 * torch.rand(2, 6, dtype=torch.float64)
    with torch.no_grad():
        y, _ = layer(mode="kb", order=6)(u, dt_bl=gaps)
        expected, _ = layer(mode="exact", bound="none")(u, dt_bl=gaps)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bound", ["none", "disc"])
def test_with_gaps_it_is_the_recurrence(bound: str) -> None:
    liquid, u = layer(mode="exact", bound=bound), draw(9)
    gaps = 3 * torch.rand(2, 9, dtype=torch.float64)
    c = torch.view_as_complex(liquid.C)
    with torch.no_grad():
        y, _ = liquid(u, dt_bl=gaps)
        for row in range(2):
            x = torch.zeros(2, 4, dtype=torch.complex128)
            for k in range(9):
                a, b = discrete(liquid, gaps[row, k])
                moves = a + b * u[row, k, :, None]
                if bound == "disc":
                    moves = torch.where(moves.abs() > 1, moves / moves.abs(), moves)
                x = moves * x + b * u[row, k, :, None]
                expected = (torch.cat([c, c.conj()], 1) * x).sum(1).real + liquid.D * u[row, k]
                torch.testing.assert_close(y[row, k], expected, rtol=1e-10, atol=1e-10)


def test_the_root_keeps_terms_of_one_size() -> None:
    """Sums over products of p random signs have the deviation sqrt(binomial(k, p)), about k^(p/2) / sqrt(p!)."""
    torch.manual_seed(0)
    plain, scaled = layer(order=2, normalize="none"), layer(order=2, normalize="root")
    signs = (2 * torch.randint(0, 2, (2000, 120, 2)) - 1).double()
    with torch.no_grad():
        first = layer(order=1)(signs)[0]
        grown, kept = (each(signs)[0] - first for each in (plain, scaled))
    assert (kept[:, 119].std() / kept[:, 29].std()).item() == pytest.approx(1.0, abs=0.2)
    k = torch.arange(1, 121, dtype=torch.float64)[:, None]
    torch.testing.assert_close(kept * k, grown, rtol=1e-8, atol=1e-10)


def test_unbounded_the_exact_mode_may_blow_up_and_bounded_it_does_not() -> None:
    u = torch.full((1, 2000, 2), 6.0)
    free, held = (
        layer(mode="exact", bound=bound, dt_min=0.2, dt_max=0.5).float() for bound in ("none", "disc")
    )
    assert not free(u)[0].isfinite().all()
    assert held(u)[0].isfinite().all()


@pytest.mark.parametrize(("size", "stored"), [(7, 3), (8, 4), (64, 32)])
def test_the_published_sizes(size: int, stored: int) -> None:
    """A and B of one copy: 4 numbers a pair; C: 2 H a pair; D and steps: H each."""
    liquid = LiquidS4(128, LiquidS4Config(state_size=size))
    assert sum(p.numel() for p in liquid.parameters()) == 4 * stored + 2 * 128 * stored + 2 * 128
    assert all(p.isfinite().all() for p in liquid.parameters())


def test_the_start_and_the_hints() -> None:
    torch.manual_seed(0)
    liquid = LiquidS4(500, LiquidS4Config(state_size=64, dt_min=0.002))
    assert liquid.A_real.exp().unique().tolist() == pytest.approx([0.5], abs=1e-6)
    assert liquid.A_imag.max().item() == pytest.approx(1303.27, rel=1e-4)
    assert liquid.B[..., 1].abs().max().item() <= 2.0
    assert liquid.C.square().sum(-1).mean().item() == pytest.approx(1.0, rel=0.05)
    assert liquid.log_dt.mean().item() == pytest.approx(math.log(0.002 * 0.2) / 2, abs=0.2)
    hints = gather_hints(LiquidS4(2, LiquidS4Config(lr_scale=0.5, lr_scale_dt=0.1)))
    assert {name: (hints[name].lr_scale, hints[name].weight_decay) for name in hints} == {
        **dict.fromkeys(("A_real", "A_imag", "B"), (0.5, 0.0)),
        "log_dt": (0.1, 0.0),
        **dict.fromkeys(("C", "D"), (1.0, None)),
    }
    assert {hint.dtype for hint in hints.values()} == {torch.float32}


def test_what_it_does_not_take_is_refused() -> None:
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"mode pb takes no gaps .* --set backbone\.mode=kb or exact"):
        layer()(x, dt_bl=torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        layer()(x, side={"B": x})
    with pytest.raises(ValueError, match="n_ssm = 3 copies of A and B have to divide the width, 2"):
        layer(n_ssm=3)
    with pytest.raises(ConfigError, match="no bidirectional form"):
        build_model("liquid_s4", d_input=3, causal=False)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 1}, "at least 2"),
        ({"order": 0}, "order must be at least 1"),
        ({"n_ssm": -1}, "n_ssm must be 1 or more"),
        ({"dt_min": 0.0}, "0 < dt_min"),
        ({"lr_scale": 0.0}, "above 0"),
        ({"mode": "repo"}, "'pb', 'kb' or 'exact'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("liquid_s4", d_input=3, backbone_config=knobs)
