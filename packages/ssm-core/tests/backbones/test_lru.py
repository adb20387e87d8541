"""LRU keeps the mixer contract and is the published unit: against a dense recurrence, in its start and its sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.lru.layer import LRU
from ssm_core.backbones.lru.spec import LRUConfig
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 5, "r_min": 0.3, "r_max": 0.95}


class TestBlock(MixerSuite):
    backbone = "lru"
    config = QUICK
    widths = (1, 4)


@pytest.mark.slow
class TestLayer(MixerSuite):
    backbone = "lru"
    config = QUICK | {"activation": "none"}
    part = "ssm"
    widths = (1, 2, 5, 16, 33)


def layer(causal: bool = True, **knobs: Any) -> LRU:
    torch.manual_seed(0)
    return LRU(3, LRUConfig(**{**QUICK, **knobs}), causal=causal).double()


def dense(lru: LRU, c: Tensor, u: Tensor, gaps: Tensor) -> Tensor:
    """The recurrence with its matrices written out; over a gap d as d steps, the input entering with the states' size.

    For gaps of 1 it is the paper's equation 7 word by word.
    """
    lam = torch.exp(torch.complex(-lru.nu_log.exp(), lru.theta_log.exp()))
    b, c = torch.view_as_complex(lru.B), torch.view_as_complex(c)
    out = []
    for row in range(len(u)):
        x = torch.zeros(len(lam), dtype=b.dtype)
        for u_k, gap in zip(u[row], gaps[row], strict=True):
            gamma = torch.exp(lru.gamma_log)
            if gap != 1:
                gamma = gamma * torch.sqrt((1 - lam.abs() ** (2 * gap)) / (1 - lam.abs() ** 2))
            # The angle is theta itself, not folded into (-pi, pi]: it turns on without a leap when theta is trained.
            turned = lam.abs() ** gap * torch.exp(1j * gap * lru.theta_log.exp())
            x = torch.diag(turned) @ x + torch.diag(gamma).to(b.dtype) @ b @ u_k.to(b.dtype)
            out.append((c @ x).real)
    return torch.stack(out).view(u.shape)


@pytest.mark.parametrize("irregular", [False, True])
def test_it_is_the_dense_recurrence(irregular: bool) -> None:
    lru, u = layer(), torch.randn(2, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        lru.gamma_log += 0.3 * torch.randn(5)  # trained, it is no longer what keeps the states' size
    gaps = (
        0.2 + 3 * torch.rand(2, 7, dtype=torch.float64)
        if irregular
        else torch.ones(2, 7, dtype=torch.float64)
    )
    y, _ = lru(u, dt_bl=gaps if irregular else None)
    torch.testing.assert_close(y, dense(lru, lru.C, u, gaps) + lru.D * u, rtol=1e-10, atol=1e-10)


def test_backwards_it_is_the_dense_recurrence_of_the_reversed_sequence() -> None:
    lru = layer(causal=False)
    u, v = torch.randn(2, 2, 7, 3, dtype=torch.float64)
    gaps = 0.2 + 3 * torch.rand(2, 7, dtype=torch.float64)
    after = torch.cat([gaps[:, 1:], torch.ones(2, 1, dtype=torch.float64)], 1)
    forwards = dense(lru, lru.C, u, gaps) + lru.D * u
    assert lru.C_reverse is not None
    for other, given in ((u, None), (v, v)):
        back = dense(lru, lru.C_reverse, other.flip(1), after.flip(1)).flip(1)
        y, state = lru(u, dt_bl=gaps, x_reverse_bld=given)
        torch.testing.assert_close(y, forwards + back, rtol=1e-10, atol=1e-10)
        assert state == ()


def test_states_keep_the_size_of_the_input_whatever_the_gap() -> None:
    """What gamma is for: under white noise |x|^2 stays at |B u|^2, for gaps of any one size."""
    torch.manual_seed(0)
    lru = LRU(4, LRUConfig(state_size=64, r_min=0.5, r_max=0.9)).double()
    u = torch.randn(8, 2000, 4, dtype=torch.float64)
    for gap in (0.1, 1.0, 4.0):
        gaps = torch.full((8, 2000), gap, dtype=torch.float64)
        with torch.no_grad():
            x, _ = lru._scan(u, gaps, None)
            size = (
                x[:, 200:].abs().square().mean()
                / (u[:, 200:].to(x.dtype) @ torch.view_as_complex(lru.B).mT).abs().square().mean()
            )
        assert size.item() == pytest.approx(1.0, rel=0.1), gap


def test_a_gap_of_nothing_has_finite_gradients() -> None:
    lru = layer()
    gaps = torch.tensor([[0.0, 1.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y, _ = lru(torch.randn(1, 4, 3, dtype=torch.float64), dt_bl=gaps)
    y.sum().backward()
    assert gaps.grad is not None
    assert gaps.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lru.parameters())


def test_the_start() -> None:
    torch.manual_seed(0)
    lru = LRU(50, LRUConfig(state_size=4000, r_min=0.4, r_max=0.9, max_phase=0.5))
    modulus, phase = torch.exp(-lru.nu_log.exp()), lru.theta_log.exp()
    assert 0.4 <= modulus.min() < 0.42
    assert 0.89 < modulus.max() <= 0.9001
    assert modulus.square().mean().item() == pytest.approx(
        (0.4**2 + 0.9**2) / 2, rel=0.02
    )  # uniform on the ring
    assert phase.max() <= 0.5001
    assert phase.mean().item() == pytest.approx(0.25, rel=0.05)
    torch.testing.assert_close(lru.gamma_log.exp(), torch.sqrt(1 - modulus.square()))
    assert lru.B.var().item() == pytest.approx(1 / 100, rel=0.02)
    assert lru.C.var().item() == pytest.approx(1 / 4000, rel=0.02)
    assert LRU(50, LRUConfig(state_size=8)).D.std().item() == pytest.approx(1, rel=0.3)
    whole = LRU(2, LRUConfig(state_size=4000))
    assert all(p.isfinite().all() for p in whole.parameters())


def test_the_default_layer_has_its_number_of_parameters() -> None:
    """nu, theta, gamma: N each; B and C: 2 N H each; D: H."""
    model = build_model("lru", d_input=1, d_model=256, n_layers=1)
    lru = model.stack.blocks[0].mixer
    assert sum(p.numel() for p in lru.parameters()) == 3 * 128 + 4 * 128 * 256 + 256 == 131_712
    assert sum(p.numel() for p in LRU(256, LRUConfig(), causal=False).parameters()) == 131_712 + 2 * 128 * 256


def test_hints() -> None:
    hints = gather_hints(LRU(3, LRUConfig(lr_scale=0.3), causal=False))
    for name in ("nu_log", "theta_log", "gamma_log", "B"):
        assert (hints[name].lr_scale, hints[name].weight_decay) == (0.3, 0.0)
    for name in ("C", "C_reverse", "D"):
        assert (hints[name].lr_scale, hints[name].weight_decay) == (1.0, None)
    assert {hint.dtype for hint in hints.values()} == {torch.float32}


def test_what_it_does_not_take_is_refused() -> None:
    lru, both, x = layer(), layer(causal=False), torch.randn(2, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        lru(x, side={"B": x})
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional lru"):
        lru(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=lru.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 0}, "state_size must be at least 1"),
        ({"r_min": 0.9, "r_max": 0.5}, "r_min < r_max"),
        ({"r_max": 1.1}, "grows without bound"),
        ({"max_phase": 7.0}, "max_phase"),
        ({"lr_scale": 0.0}, "above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("lru", d_input=3, backbone_config=knobs)


def test_long_gaps_forget() -> None:
    lru = layer()
    _, state = lru(torch.randn(1, 5, 3, dtype=torch.float64))
    gap = torch.full((1, 1), 1e6, dtype=torch.float64)
    y, _ = lru(torch.zeros(1, 1, 3, dtype=torch.float64), dt_bl=gap, state=state)
    assert y.abs().max().item() < 1e-12
    assert math.isfinite(y.sum().item())
