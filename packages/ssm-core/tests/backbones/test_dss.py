"""DSS keeps the mixer contract in both versions, has the kernels of its paper, and steps in the version that can."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.dss.layer import DSS
from ssm_core.backbones.dss.softmax import EPSILON
from ssm_core.backbones.dss.spec import DSSConfig
from ssm_core.hippo import hippo_normal
from ssm_core.plugin.errors import ConfigError
from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import Hint
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 3, "dt_min": 0.05, "dt_max": 0.5}


class TestBlock(MixerSuite):
    backbone = "dss"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestLayer(MixerSuite):
    backbone = "dss"
    config = QUICK | {"sep_dt_re_im": False, "backward_start": "same"}
    part = "ssm"
    widths = (2, 5)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestSoftmax(MixerSuite):
    backbone = "dss"
    config = QUICK | {"version": "softmax"}
    part = "mixer"
    capabilities = Capabilities(bidirectional=True, step=False, state=False)
    widths = (1, 4)
    causal_tolerance = 1e-6


def layer(width: int = 3, causal: bool = True, **knobs: Any) -> DSS:
    torch.manual_seed(0)
    return DSS(width, DSSConfig(**{"state_size": 5, "dt_max": 0.5, **knobs}), causal=causal).double()


def parts(dss: DSS) -> tuple[Tensor, Tensor, Tensor]:
    """Lambda (N,), dt Lambda (H, N) and W (1 or 2, H, N)."""
    real, imag = dss.Lambda.detach().unbind(1)
    a = torch.complex(-real.exp() if dss.config.version == "exp" else real, imag)
    dt = dss.log_dt.detach().exp()
    dt = dt if dt.ndim == 2 else torch.stack([dt, dt], 1)
    return a, torch.complex(dt[:, :1] * a.real, dt[:, 1:] * a.imag), torch.view_as_complex(dss.W).detach()


def formula(dss: DSS, direction: int, length: int, epsilon: float = EPSILON) -> Tensor:
    """The kernel (H, L), its formula evaluated as it stands."""
    a, z, w = parts(dss)
    k = torch.arange(length, dtype=torch.float64)
    if dss.config.version == "exp":
        terms = (w[direction] * (z.exp() - 1) / a)[..., None] * (z[..., None] * k).exp()
        return terms.sum(1).real
    # Softmax over k, then W / Lambda; the original's epsilon enters by the largest term's denominator.
    peak = torch.where(a.real > 0, z * (length - 1), torch.zeros_like(z))
    weights = (z[..., None] * k - peak[..., None]).exp()
    step = torch.where(a.real > 0, -z, z)
    total = ((step * length).exp() - 1) * a
    inverse = total.conj() / (total.abs().square() + epsilon)
    return ((w[direction] * (step.exp() - 1) * inverse)[..., None] * weights).sum(1).real


def convolved(k: Tensor, u: Tensor, lag: int = 0) -> Tensor:
    """sum_j k_j u_{t - j - lag} (L, H)."""
    out = torch.zeros_like(u)
    for t in range(len(u)):
        for s in range(t + 1 - lag):
            out[t] += k[:, t - lag - s] * u[s]
    return out


@pytest.mark.parametrize("version", ["exp", "softmax"])
@pytest.mark.parametrize("separate", [False, True])
def test_the_kernel_is_its_formula(version: str, separate: bool) -> None:
    dss = layer(version=version, sep_dt_re_im=separate)
    with torch.no_grad():
        dss.log_dt += 0.3 * torch.randn_like(dss.log_dt)
        if version == "softmax":
            dss.Lambda[0, 0] = 2.0  # a mode that grows
    for length in (1, 2, 9, 40):
        u = torch.randn(2, length, 3, dtype=torch.float64)
        expected = torch.stack([convolved(formula(dss, 0, length), row) for row in u]) + dss.D * u
        torch.testing.assert_close(dss(u)[0], expected, rtol=1e-11, atol=1e-11)


def test_the_weights_of_a_mode_are_a_softmax_over_time() -> None:
    """Without the epsilon, and with the softmax written as one."""
    dss = layer(version="softmax")
    with torch.no_grad():
        dss.Lambda[1, 0] = 1.0
    a, z, w = parts(dss)
    weights = (z[..., None] * torch.arange(7)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    expected = ((w[0] / a)[..., None] * weights).sum(1).real
    torch.testing.assert_close(formula(dss, 0, 7), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(formula(dss, 0, 7, epsilon=0.0), expected, rtol=1e-11, atol=1e-11)


def test_modes_that_grow_fast_do_not_overflow() -> None:
    torch.manual_seed(0)
    dss = DSS(2, DSSConfig(state_size=4, version="softmax", dt_min=0.1, dt_max=0.1))
    with torch.no_grad():
        dss.Lambda[:, 0] = torch.tensor([20.0, -20.0, 1e-3, 0.0])
    y, _ = dss(torch.randn(1, 4096, 2))
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dss.parameters())


def test_the_exp_version_is_a_recurrence() -> None:
    dss = layer()
    a, z, w = parts(dss)
    u, x = torch.randn(11, 3, dtype=torch.float64), torch.zeros_like(z)
    y, after = dss(u[None])
    state = dss.init_state(1)
    for time in range(11):
        x = z.exp() * x + (z.exp() - 1) / a * u[time, :, None]
        expected = (w[0] * x).sum(1).real + dss.D * u[time]
        stepped, state = dss.step(u[None, time], state=state)
        torch.testing.assert_close(y[0, time], expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(stepped[0], expected, rtol=1e-11, atol=1e-11)
    for found in (after, state):
        torch.testing.assert_close(found["x"][0], x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("version", ["exp", "softmax"])
@pytest.mark.parametrize("start", ["next", "same"])
def test_backwards_it_convolves_the_reversed_sequence(version: str, start: str) -> None:
    dss = layer(causal=False, version=version, backward_start=start)
    u, v = torch.randn(2, 1, 9, 3, dtype=torch.float64)
    mask = torch.tensor([[True] * 7 + [False] * 2])
    for stop, given in ((9, None), (7, mask)):
        ahead = convolved(formula(dss, 0, stop), u[0, :stop]) + dss.D * u[0, :stop]
        for other, reverse in ((u, None), (v, v)):
            lag = 1 if start == "next" else 0
            back = convolved(formula(dss, 1, stop), other[0, :stop].flip(0), lag).flip(0)
            y, state = dss(u, mask_bl=given, x_reverse_bld=reverse)
            torch.testing.assert_close(y[0, :stop], ahead + back, rtol=1e-10, atol=1e-10)
            assert state == ()


def test_softmax_rows_have_kernels_of_their_own_length() -> None:
    dss = layer(version="softmax")
    with torch.no_grad():
        dss.Lambda[0, 0] = 0.5
    u = torch.randn(3, 8, 3, dtype=torch.float64)
    mask = torch.arange(8) < torch.tensor([[8], [3], [0]])
    y, state = dss(u.masked_fill(~mask[..., None], torch.nan), mask_bl=mask)
    torch.testing.assert_close(y[1, :3], dss(u[1:2, :3])[0][0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(y[0], dss(u[:1])[0][0], rtol=1e-11, atol=1e-11)
    assert y.isfinite().all()
    assert state == ()


def test_it_starts_from_the_upper_half_of_hippo_n() -> None:
    dss = layer(state_size=8)
    expected = torch.linalg.eigvals(hippo_normal(16))
    expected = expected[expected.imag > 0].imag.sort().values
    torch.testing.assert_close(dss.Lambda[:, 1].sort().values, expected, rtol=1e-6, atol=1e-6)
    assert (-dss.Lambda[:, 0].exp()).tolist() == pytest.approx([-0.5] * 8)
    assert layer(state_size=8, version="softmax").Lambda[:, 0].tolist() == pytest.approx([-0.5] * 8)
    assert torch.equal(dss.log_dt[:, 0], dss.log_dt[:, 1])
    torch.manual_seed(0)
    wide = DSS(3000, DSSConfig(state_size=4))
    assert wide.W.var().item() == pytest.approx(1, rel=0.05)
    assert wide.log_dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.1)


def test_the_number_of_parameters_and_hints() -> None:
    size = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert size(DSS(16, DSSConfig())) == 2 * 64 + 2 * 16 * 64 + 16 + 2 * 16
    assert size(DSS(16, DSSConfig(sep_dt_re_im=False), causal=False)) == 2 * 64 + 4 * 16 * 64 + 16 + 16
    model = build_model("dss", d_input=1, d_model=16, n_layers=1)
    assert size(model.stack.blocks[0]) == 2 * 64 + 2 * 16 * 64 + 16 + 2 * 16 + 16 * 16 + 16 + 2 * 16
    hints = layer(lr_scale=0.1, lr_scale_dt=2.0).param_hints()
    assert hints["Lambda"] == hints["W"] == Hint(lr_scale=0.1, weight_decay=0.0, dtype=torch.float32)
    assert hints["log_dt"] == Hint(lr_scale=2.0, weight_decay=0.0, dtype=torch.float32)
    assert hints["D"] == Hint(dtype=torch.float32)


def test_what_it_does_not_take_is_refused() -> None:
    dss, both, softmax = layer(), layer(causal=False), layer(version="softmax")
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    assert dss.streaming
    assert not softmax.streaming
    assert softmax.init_state(2) == ()
    with pytest.raises(ValueError, match=r"softmax.* takes no state: --set backbone.version=exp"):
        softmax(x, state=dss.init_state(2))
    with pytest.raises(ValueError, match=r"softmax.* cannot step: --set backbone.version=exp"):
        softmax.step(x[:, 0], state=())
    with pytest.raises(ValueError, match=r"dss takes no gaps \(dt_bl\): --set task.time=ignored or appended"):
        dss(x, dt_bl=torch.ones(2, 4))
    with pytest.raises(ValueError, match="no side inputs"):
        dss(x, side={"B": x})
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional dss"):
        dss(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=dss.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 0}, "state_size 0 must be 1 or more"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"lr_scale_dt": 0.0}, "above 0"),
        ({"version": "log"}, "'exp' or 'softmax'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("dss", d_input=3, backbone_config=knobs)
