"""S4D keeps the mixer contract, is the recurrence it says it is, and starts as its paper says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.s4d.layer import S4D
from ssm_core.backbones.s4d.spec import S4DConfig
from ssm_core.hippo import diagonal_start
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Hint
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 4, "start": "lin", "dt_min": 0.05, "dt_max": 0.5}
METHODS = ["zoh", "bilinear"]


class TestBlock(MixerSuite):
    backbone = "s4d"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():
            getattr(mixer, "mixer", mixer).inv_dt += math.log(factor)
        return mixer


@pytest.mark.slow
class TestLayer(TestBlock):
    config = QUICK | {"discretization": "bilinear", "n_ssm": 2, "rate": 0.8, "backward_start": "same"}
    part = "ssm"
    widths = (2, 4, 6)


@pytest.mark.slow
class TestMixer(TestLayer):
    config = QUICK | {"n_ssm": 0, "start": "real"}
    part = "mixer"
    widths = (1, 5, 16)


def layer(width: int = 4, causal: bool = True, **knobs: Any) -> S4D:
    torch.manual_seed(0)
    return S4D(width, S4DConfig(**{"state_size": 8, "dt_max": 0.5, **knobs}), causal=causal).double()


def states(s4d: S4D, u: Tensor, gaps: Tensor) -> Tensor:
    """The states of all channels (L, H, N), conjugates written out, each step by a matrix exponential or a solve."""
    half = torch.complex(-s4d.A_real.exp(), -s4d.A_imag).detach()
    b_half = torch.view_as_complex(s4d.B).detach()
    out = torch.zeros(*u.shape, 2 * half.shape[1], dtype=half.dtype)
    for channel in range(u.shape[1]):
        copy = channel % len(half)
        a = torch.diag(torch.cat([half[copy], half[copy].conj()]))
        b = torch.cat([b_half[copy], b_half[copy].conj()])
        eye, x = torch.eye(len(a), dtype=a.dtype), torch.zeros(len(a), dtype=a.dtype)
        for time in range(len(u)):
            delta = s4d.inv_dt[channel].exp().detach() * s4d.config.rate * gaps[time]
            if s4d.config.discretization == "zoh":
                a_bar = torch.linalg.matrix_exp(delta * a)
                b_bar = torch.linalg.solve(a, (a_bar - eye) @ b)
            else:
                a_bar = torch.linalg.solve(eye - delta / 2 * a, eye + delta / 2 * a)
                b_bar = torch.linalg.solve(eye - delta / 2 * a, delta * b)
            x = a_bar @ x + b_bar * u[time, channel]
            out[time, channel] = x
    return out


def read(s4d: S4D, direction: int, x: Tensor) -> Tensor:
    c = torch.view_as_complex(s4d.C).detach()[direction]
    return (torch.cat([c, c.conj()], 1) * x).sum(-1).real


@pytest.mark.parametrize("discretization", METHODS)
@pytest.mark.parametrize("start", ["legs", "inv", "lin", "real"])
def test_the_convolution_is_the_dense_recurrence(start: str, discretization: str) -> None:
    s4d = layer(start=start, discretization=discretization, n_ssm=2, rate=0.7)
    u = torch.randn(1, 33, 4, dtype=torch.float64)
    y, after = s4d(u)
    x = states(s4d, u[0], torch.ones(33))
    torch.testing.assert_close(y[0], read(s4d, 0, x) + s4d.D * u[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(after["x"][0], x[-1, :, :4], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("discretization", METHODS)
@pytest.mark.parametrize("start", ["legs", "inv", "lin", "real"])
def test_the_scan_over_gaps_is_the_dense_recurrence(start: str, discretization: str) -> None:
    s4d = layer(start=start, discretization=discretization, n_ssm=2)
    u, gaps = torch.randn(1, 19, 4, dtype=torch.float64), 0.2 + 3 * torch.rand(1, 19, dtype=torch.float64)
    y, after = s4d(u, dt_bl=gaps)
    x = states(s4d, u[0], gaps[0])
    torch.testing.assert_close(y[0], read(s4d, 0, x) + s4d.D * u[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after["x"][0], x[-1, :, :4], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("discretization", METHODS)
def test_scan_and_convolution_are_one(discretization: str) -> None:
    """Gaps of 1 take the convolution unless a gradient is asked of them."""
    for causal in (True, False):
        s4d = layer(causal=causal, discretization=discretization)
        u, ones = torch.randn(2, 2, 40, 4, dtype=torch.float64), torch.ones(2, 40, dtype=torch.float64)
        other = None if causal else u[1]
        y, _ = s4d(u[0], x_reverse_bld=other)
        scanned, _ = s4d(u[0], dt_bl=ones.requires_grad_(), x_reverse_bld=other)
        torch.testing.assert_close(scanned, y, rtol=1e-10, atol=1e-10)
        assert scanned.grad_fn is not None
        assert torch.autograd.grad(scanned.sum(), ones)[0].ne(0).any()


@pytest.mark.parametrize("start", ["next", "same"])
@pytest.mark.parametrize("with_gaps", [False, True])
def test_backwards_it_is_the_recurrence_of_the_reversed_sequence(start: str, with_gaps: bool) -> None:
    s4d = layer(causal=False, backward_start=start)
    u, v = torch.randn(2, 1, 9, 4, dtype=torch.float64)
    gaps = 0.2 + 3 * torch.rand(1, 9, dtype=torch.float64) if with_gaps else torch.ones(1, 9).double()
    after = torch.cat([gaps[0, 1:], torch.ones(1, dtype=torch.float64)])
    forwards = read(s4d, 0, states(s4d, u[0], gaps[0])) + s4d.D * u[0]
    for other, given in ((u, None), (v, v)):
        back = read(s4d, 1, states(s4d, other[0].flip(0), after.flip(0))).flip(0)
        if start == "next":
            back = torch.cat([back[1:], torch.zeros_like(back[:1])])
        y, state = s4d(u, dt_bl=gaps if with_gaps else None, x_reverse_bld=given)
        torch.testing.assert_close(y[0], forwards + back, rtol=1e-10, atol=1e-10)
        assert state == ()


def test_float32_is_near_float64_at_length_4096() -> None:
    """With steps of 0.1 the fastest HiPPO mode turns 130 rad a step; the parameters are the same numbers."""
    torch.manual_seed(0)
    s4d = S4D(2, S4DConfig(state_size=64, dt_min=0.01, dt_max=0.1))
    u = torch.randn(1, 4096, 2)
    y, after = s4d(u)
    expected, x = s4d.double()(u.double())
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (after["x"] - x["x"]).abs().max() < 1e-5 * x["x"].abs().max()


def test_a_and_b_start_where_the_knobs_say() -> None:
    a, _ = diagonal_start("legs", 64)
    s4d = layer(state_size=64, n_ssm=0)
    torch.testing.assert_close(-s4d.A_real.exp(), torch.full((4, 32), -0.5).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(-s4d.A_imag[3], a.imag, rtol=1e-6, atol=1e-6)
    assert layer(state_size=64, b_clip=2.0).B[..., 1].abs().max().item() == 2


def test_c_and_d_start_normal_and_steps_log_uniform() -> None:
    torch.manual_seed(0)
    s4d = S4D(4000, S4DConfig(state_size=4))
    assert s4d.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.05)
    assert s4d.D.var().item() == pytest.approx(1, rel=0.1)
    assert s4d.inv_dt.exp().min() >= 1e-3
    assert s4d.inv_dt.exp().max() <= 0.1
    assert s4d.inv_dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.1)


def test_a_band_limit_drops_fast_modes_only() -> None:
    knobs = {"width": 1, "start": "lin", "dt_min": 0.1, "dt_max": 0.1}
    # Modes at 0, pi, 2 pi and 3 pi, with steps of 0.1: 0, .05, .1 and .15 turns a step.
    everything, all_below, limited = (layer(bandlimit=band, **knobs) for band in (None, 0.5, 0.24))
    u, gaps = torch.randn(1, 9, 1, dtype=torch.float64), torch.full((1, 9), 2.0, dtype=torch.float64)
    torch.testing.assert_close(all_below(u)[0], everything(u)[0])
    with torch.no_grad():
        everything.C[:, :, 3] = 0
    torch.testing.assert_close(limited(u)[0], everything(u)[0])
    torch.testing.assert_close(limited(u, dt_bl=gaps)[0], everything(u, dt_bl=gaps)[0])
    stepped, _ = limited.step(u[:, 0], state=limited.init_state(1))
    torch.testing.assert_close(stepped, everything(u[:, :1])[0][:, 0])


def test_the_number_of_parameters() -> None:
    size = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    h, n = 16, 32
    assert size(S4D(h, S4DConfig())) == 4 * n + 2 * h * n + 2 * h
    assert size(S4D(h, S4DConfig(n_ssm=0), causal=False)) == 4 * h * n + 4 * h * n + 2 * h
    model = build_model("s4d", d_input=1, d_model=128, n_layers=4)
    blocks = [size(block) for block in model.stack.blocks]
    assert blocks == [128 + 2 * 128 * 32 + 2 * 128 + 2 * (128 * 128 + 128) + 2 * 128] * 4
    assert 150_000 < sum(blocks) < 200_000  # the original's small example has about 200 thousand


def test_hints_say_what_the_original_does() -> None:
    hints = layer(lr_scale=0.1).param_hints()
    slow = Hint(lr_scale=0.1, weight_decay=0.0, dtype=torch.float32)
    assert hints["A_real"] == hints["A_imag"] == hints["B"] == slow
    assert hints["inv_dt"] == Hint(lr_scale=1.0, weight_decay=0.0, dtype=torch.float32)
    assert hints["C"] == hints["D"] == Hint(dtype=torch.float32)
    everything = layer(lr_scale=0.1, lr_scale_dt=0.1, lr_scale_c=0.1).param_hints()
    assert everything["C"] == everything["inv_dt"] == slow
    assert everything.keys() == dict(layer().named_parameters()).keys()


def test_padding_takes_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    s4d = layer()
    u, mask = torch.randn(2, 9, 4, dtype=torch.float64), torch.arange(9) < torch.tensor([[4], [9]])
    expected, _ = s4d(u[:1, :4])
    monkeypatch.setattr(s4d, "_scan", None)
    y, state = s4d(u, mask_bl=mask)
    torch.testing.assert_close(y[:1, :4], expected)
    assert state["gap"].tolist() == [5.0, 0.0]
    with pytest.raises(TypeError):
        s4d(u, mask_bl=(torch.arange(9) % 2 == 1).expand(2, 9))


def test_what_it_does_not_take_is_refused() -> None:
    s4d, both = layer(), layer(causal=False)
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    for call in (
        lambda: s4d(x, side={"B": x}),
        lambda: s4d.step(x[:, 0], side={"B": x}, state=s4d.init_state(2)),
    ):
        with pytest.raises(ValueError, match=r"s4d uses no side inputs, but got \['B'\]"):
            call()
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional s4d"):
        s4d(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=s4d.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match="n_ssm = 3 copies of A and B have to divide the width, 4"):
        layer(n_ssm=3)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 7}, "state_size 7 must be even"),
        ({"state_size": 0}, "above 0"),
        ({"n_ssm": -1}, "n_ssm must be 1 or more"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"bandlimit": 0.0}, "bandlimit must be above 0"),
        ({"lr_scale_c": -1.0}, "lr_scale_c must be above 0"),
        ({"discretization": "euler"}, "'zoh' or 'bilinear'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("s4d", d_input=3, backbone_config=knobs)
