"""S4 keeps the mixer contract, is the dense bilinear system it stands for, and starts as its paper says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.backbones.s4.layer import S4
from ssm_core.backbones.s4.spec import S4Config
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import Hint
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 4, "dt_min": 0.05, "dt_max": 0.5}


class TestBlock(MixerSuite):
    backbone = "s4"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestLayer(MixerSuite):
    backbone = "s4"
    config = QUICK | {"start": "legt", "n_ssm": 2, "rate": 0.8, "backward_start": "same"}
    part = "ssm"
    widths = (2, 4, 6)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestMixer(TestLayer):
    config = QUICK | {"n_ssm": 0, "start": "diag-lin"}
    part = "mixer"
    widths = (1, 5, 16)


@pytest.mark.slow
class TestManyStates(TestLayer):
    """So many that the powers of A are taken step by step."""

    config = QUICK | {"state_size": 64, "n_ssm": 2}
    exhaustive = True
    splits_at_resets = ("causal", "bidirectional")


def layer(width: int = 4, causal: bool = True, **knobs: Any) -> S4:
    torch.manual_seed(0)
    return S4(width, S4Config(**{"state_size": 8, "dt_max": 0.5, **knobs}), causal=causal).double()


def dense(s4: S4, channel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bilinear system of a channel over all N states, conjugates written out, and C of both directions."""
    twice = lambda half: torch.cat([half, half.conj()], -1)  # noqa: E731
    copy = channel % len(s4.A_real)
    a = torch.diag(twice(torch.complex(-s4.A_real[copy].exp(), -s4.A_imag[copy])))
    p, b, c = (twice(torch.view_as_complex(x)) for x in (s4.P[:, copy], s4.B[copy], s4.C[:, channel]))
    a = a - p.mT @ p.conj()
    eye, delta = torch.eye(len(a), dtype=a.dtype), s4.inv_dt[channel].exp() * s4.config.rate
    a_bar = torch.linalg.solve(eye - delta / 2 * a, eye + delta / 2 * a)
    return a_bar.detach(), torch.linalg.solve(eye - delta / 2 * a, delta * b).detach(), c.detach(), a.detach()


def states(s4: S4, u: Tensor) -> Tensor:
    """The states of all channels (L, H, N), by the dense recurrence."""
    out = torch.zeros(*u.shape, 2 * s4.A_real.shape[1], dtype=torch.complex128)
    for channel in range(u.shape[1]):
        a_bar, b_bar, _, _ = dense(s4, channel)
        x = torch.zeros_like(b_bar)
        for time in range(len(u)):
            x = a_bar @ x + b_bar * u[time, channel]
            out[time, channel] = x
    return out


def read(s4: S4, direction: int, x: Tensor) -> Tensor:
    channels = [(x[:, h] @ dense(s4, h)[2][direction]).real for h in range(x.shape[1])]
    return torch.stack(channels, 1)


STARTS = {
    "legs": 0,
    "fout": 1,
    "legt": 2,
    "hippo": 0,
    "diag-legs": 0,
    "diag-inv": 1,
    "diag-lin": 2,
    "diag-real": 3,
}


@pytest.mark.parametrize("state_size", [8, 64])
@pytest.mark.parametrize(("start", "rank"), STARTS.items())
def test_the_convolution_is_the_dense_recurrence(start: str, rank: int, state_size: int) -> None:
    s4 = layer(start=start, n_ssm=2, rank=rank, rate=0.7, state_size=state_size)
    with torch.no_grad():
        s4.P += 0.2 * torch.randn_like(s4.P)
    u = torch.randn(1, 33, 4, dtype=torch.float64)
    y, after = s4(u)
    x = states(s4, u[0])
    torch.testing.assert_close(y[0], read(s4, 0, x) + s4.D * u[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(after["x"][0], x[-1, :, : state_size // 2], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("start", ["legs", "legt"])
def test_steps_in_o_of_n_are_the_dense_recurrence(start: str) -> None:
    s4 = layer(start=start)
    u, state = torch.randn(9, 4, dtype=torch.float64), layer().init_state(1)
    x = states(s4, u)
    expected = read(s4, 0, x) + s4.D * u
    for time in range(9):
        y, state = s4.step(u[time : time + 1], state=state)
        torch.testing.assert_close(y[0], expected[time], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(state["x"][0], x[time, :, :4], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("start", ["next", "same"])
def test_backwards_it_is_the_recurrence_of_the_reversed_sequence(start: str) -> None:
    s4 = layer(causal=False, backward_start=start)
    u, v = torch.randn(2, 1, 9, 4, dtype=torch.float64)
    forwards = read(s4, 0, states(s4, u[0])) + s4.D * u[0]
    for other, given in ((u, None), (v, v)):
        back = read(s4, 1, states(s4, other[0].flip(0))).flip(0)
        if start == "next":
            back = torch.cat([back[1:], torch.zeros_like(back[:1])])
        y, state = s4(u, x_reverse_bld=given)
        torch.testing.assert_close(y[0], forwards + back, rtol=1e-10, atol=1e-10)
        assert state == ()


def test_copies_take_turns() -> None:
    both = layer(start="hippo", n_ssm=0, state_size=16)
    legs, fout = layer(start="legs", state_size=16), layer(start="fout", state_size=16)
    for copy, one in enumerate([legs, fout, legs, fout]):
        torch.testing.assert_close(both.A_imag[copy], one.A_imag[0])
        torch.testing.assert_close(both.P[:, copy], one.P[:, 0])
    assert both.A_real[1].exp().tolist() == pytest.approx([1e-4] * 8)
    assert both.A_real[0].exp().tolist() == pytest.approx([0.5] * 8)
    assert layer(state_size=64, b_clip=2.0).B[..., 1].abs().max().item() == 2


def test_the_number_of_parameters() -> None:
    size = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    h, n = 16, 32
    assert size(S4(h, S4Config())) == 6 * n + 2 * h * n + 2 * h
    assert (
        size(S4(h, S4Config(n_ssm=0, start="legt"), causal=False)) == (2 + 4 + 2) * h * n + 4 * h * n + 2 * h
    )
    config = {"state_size": 4}
    model = build_model("s4", d_input=1, d_model=256, n_layers=1, causal=False, backbone_config=config)
    expected = 6 * 2 + 4 * 256 * 2 + 2 * 256 + 2 * (256 * 256 + 256) + 2 * 256
    assert size(model.stack.blocks[0]) == expected


def test_a_feed_forward_network_follows_every_second_layer() -> None:
    options: dict[str, Any] = {"d_input": 3, "d_model": 8, "n_layers": 4}
    with_it = build_model("s4", backbone_config={"ffn_every": 2}, **options)
    without = build_model("s4", **options)
    added = {name for name, _ in with_it.named_parameters()} - {
        name for name, _ in without.named_parameters()
    }
    assert {name.split(".")[2] for name in added} == {"1", "3"}
    maps, norm = 2 * 4 * 8 * 8 + 4 * 8 + 8, 2 * 8
    assert sum(dict(with_it.named_parameters())[name].numel() for name in added) == 2 * (maps + norm)
    with_it.load_state_dict(without.state_dict(), strict=False)
    x = torch.randn(2, 9, 3)
    with torch.no_grad():
        assert not torch.equal(with_it(x)[0], without(x)[0])
        for name in added:  # a second half on the residual stream that adds nothing
            if "down" in name:
                with_it.get_parameter(name).zero_()
        torch.testing.assert_close(with_it(x)[0], without(x)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="ffn_every"):
        S4Config(ffn_every=-1)


def test_hints_say_what_the_original_does() -> None:
    hints = layer(lr_scale=0.1).param_hints()
    slow = Hint(lr_scale=0.1, weight_decay=0.0, dtype=torch.float32)
    assert hints["A_real"] == hints["A_imag"] == hints["P"] == hints["B"] == slow
    assert hints["inv_dt"] == Hint(lr_scale=1.0, weight_decay=0.0, dtype=torch.float32)
    assert hints["C"] == hints["D"] == Hint(dtype=torch.float32)
    everything = layer(lr_scale=0.1, lr_scale_dt=0.1, lr_scale_c=0.1).param_hints()
    assert everything["C"] == everything["inv_dt"] == slow


def test_an_empty_sequence_leaves_the_state() -> None:
    s4 = layer()
    _, state = s4(torch.randn(2, 5, 4, dtype=torch.float64))
    empty = torch.randn(2, 0, 4, dtype=torch.float64)
    y, after = s4(empty, state=state)
    assert y.shape == (2, 0, 4)
    assert torch.equal(after["x"], state["x"])
    assert not s4(empty)[1]["x"].any()
    assert layer(causal=False)(empty)[0].shape == (2, 0, 4)


def test_what_it_does_not_take_is_refused() -> None:
    s4, both = layer(), layer(causal=False)
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"s4 takes no gaps \(dt_bl\): --set task.time=ignored or appended"):
        s4(x, dt_bl=torch.ones(2, 4))
    with pytest.raises(ValueError, match="takes no gaps"):
        s4.step(x[:, 0], dt_b=torch.ones(2), state=s4.init_state(2))
    with pytest.raises(ValueError, match="no side inputs"):
        s4(x, side={"B": x})
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional s4"):
        s4(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=s4.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match="n_ssm = 3 copies of A, P and B have to divide the width, 4"):
        layer(n_ssm=3)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 7}, "state_size 7 must be even"),
        ({"n_ssm": -1}, "n_ssm must be 1 or more"),
        ({"start": "legt", "rank": 1}, "rank 1 does not suit the start legt, whose rank is 2"),
        ({"rank": 2}, "only the diag-. starts"),
        ({"start": "diag-lin", "rank": -1}, "rank -1 does not suit"),
        ({"start": "hippo"}, "n_ssm must be even"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"start": "chaos"}, "'legs'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("s4", d_input=3, backbone_config=knobs)
