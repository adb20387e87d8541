"""S6 keeps the mixer contract and is the published Mamba: against a dense loop, and against other people's logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core import build_model
from ssm_core.backbones.s6.layer import S6
from ssm_core.backbones.s6.spec import SPEC, S6Config
from ssm_core.mamba import ConvSSM, MambaBlock
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.plugin.spec import Capabilities
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 4, "dt_rank": 2, "dt_min": 0.05, "dt_max": 0.5}


class TestBlock(MixerSuite):
    backbone = "s6"
    config = QUICK
    widths = (1, 3)
    zero_gap_is_noop = False  # the convolution counts elements


@pytest.mark.slow
class TestConv(MixerSuite):
    backbone = "s6"
    config = QUICK | {"eigenvalues": "complex", "discretization": "bilinear", "conv_width": 3, "expand": 1}
    part = "mixer"
    zero_gap_is_noop = False


@pytest.mark.slow
class TestScan(MixerSuite):
    backbone = "s6"
    part = "ssm"
    capabilities = Capabilities(bidirectional=False, dt=True)

    def make(self, width: int, causal: bool) -> Any:
        return S6(width, S6Config(**QUICK))

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():  # exp(f dt A) and f dt B: as if A and B had grown
            mixer.A_log += math.log(factor)
            mixer.x_proj.weight[mixer.rank : mixer.rank + 4] *= factor
        return mixer


def dense(s6: S6, u: Tensor, gaps: Tensor) -> Tensor:
    """The recurrence written out: every state by itself, complex ones with their conjugates."""
    config, half = s6.config, s6.A_log.shape[1]
    A = -torch.exp(s6.A_log) + (0 if s6.A_imag is None else 1j * s6.A_imag)
    low, b, c = s6.x_proj(u).split([s6.rank, config.state_size, config.state_size], -1)
    dt = torch.log(1 + torch.exp(s6.dt_proj(low))) * gaps[..., None]
    if s6.A_imag is not None:
        b, c = (torch.complex(m[..., :half], m[..., half:]) for m in (b, c))
        A, b, c = torch.cat([A, A.conj()], 1), torch.cat([b, b.conj()], -1), torch.cat([c, c.conj()], -1)
    out = torch.empty_like(u)
    for row in range(u.shape[0]):
        for channel in range(u.shape[2]):
            x = torch.zeros(config.state_size, dtype=A.dtype)
            for time in range(u.shape[1]):
                step = dt[row, time, channel]
                z = step * A[channel]
                gain, decay = step, torch.exp(z)
                if config.discretization == "zoh":
                    gain = (torch.exp(z) - 1) / A[channel]
                elif config.discretization == "bilinear":
                    gain, decay = step / (1 - z / 2), (1 + z / 2) / (1 - z / 2)
                x = decay * x + gain * b[row, time] * u[row, time, channel]
                out[row, time, channel] = (c[row, time] * x).sum().real
    return out + s6.D * u


@pytest.mark.parametrize("eigenvalues", ["real", "complex"])
@pytest.mark.parametrize("discretization", ["euler", "zoh", "bilinear"])
def test_it_is_the_recurrence(eigenvalues: str, discretization: str) -> None:
    torch.manual_seed(0)
    s6 = S6(5, S6Config(**QUICK, eigenvalues=eigenvalues, discretization=discretization)).double()
    u, gaps = torch.randn(2, 6, 5, dtype=torch.float64), 3 * torch.rand(2, 6, dtype=torch.float64)
    with torch.no_grad():
        y, _ = s6(u, dt_bl=gaps)
        torch.testing.assert_close(y, dense(s6, u, gaps), rtol=1e-10, atol=1e-10)


def test_the_block_is_the_published_one() -> None:
    """u + out_proj(scan(silu(conv(x))) silu(z)), the convolution torch's own."""
    torch.manual_seed(0)
    model = build_model(
        "s6",
        d_input=3,
        d_model=6,
        n_layers=1,
        model_config={"norm": "rms"},
        backbone_config=QUICK | {"bias": True},
    ).double()
    block, x = model.stack.blocks[0], torch.randn(2, 7, 6, dtype=torch.float64)
    conv: ConvSSM = block.mixer.inner
    with torch.no_grad():
        y, _ = block(x)
        u, z = block.mixer.in_proj(x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)).chunk(2, -1)
        u = F.conv1d(u.mT, conv.weight[:, None], conv.bias, padding=3, groups=12)[..., :7].mT
        inner = dense(conv.ssm, F.silu(u), torch.ones(2, 7, dtype=torch.float64))
        expected = x + block.mixer.out_proj(inner * F.silu(z))
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_both_ways_is_the_sum_of_two_with_weights_of_their_own() -> None:
    torch.manual_seed(0)
    model = build_model("s6", d_input=3, d_model=4, n_layers=1, causal=False, backbone_config=QUICK).double()
    both, x = model.stack.blocks[0].mixer.inner, torch.randn(2, 5, 8, dtype=torch.float64)
    expected = both.forwards(x)[0] + both.backwards(x.flip(1))[0].flip(1)
    torch.testing.assert_close(both(x)[0], expected)
    assert not torch.equal(both.forwards.weight, both.backwards.weight)


def parameters(d_model: int, n_layers: int, **knobs: Any) -> int:
    with torch.device("meta"):
        model = build_model(
            "s6",
            vocab=50280,
            d_model=d_model,
            n_layers=n_layers,
            model_config={"norm": "rms"},
            backbone_config=knobs,
        )
    return sum(p.numel() for p in model.parameters())


def test_the_numbers_of_parameters_at_the_published_dimensions() -> None:
    """Of mamba-130m and mamba-2.8b, whose heads are tied to the embedding."""
    assert parameters(768, 24) == 129_135_360
    assert parameters(2560, 64) == 2_768_345_600


def test_the_start() -> None:
    torch.manual_seed(0)
    s6 = S6(400, S6Config(state_size=4))
    assert torch.exp(s6.A_log).flatten(0, 0)[0].tolist() == pytest.approx([1, 2, 3, 4])
    assert torch.equal(s6.D, torch.ones(400))
    steps = F.softplus(s6.dt_proj.bias)
    assert steps.min() >= 1e-3 * 0.999
    assert steps.max() <= 0.1 * 1.001
    assert steps.log().mean().item() == pytest.approx(math.log(1e-4) / 2, abs=0.2)
    assert s6.rank == 13
    assert s6.dt_proj.weight.abs().max() <= 13**-0.5
    lin = S6(4, S6Config(state_size=6, eigenvalues="complex"))
    assert lin.A_imag is not None
    assert lin.A_imag[0].tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    assert torch.exp(lin.A_log).unique().tolist() == pytest.approx([0.5])
    constant = S6(64, S6Config(dt_init="constant", dt_scale=0.5, dt_rank=4, dt_floor=0.02))
    assert constant.dt_proj.weight.unique().tolist() == [0.25]
    assert F.softplus(constant.dt_proj.bias).min().item() == pytest.approx(0.02)


def test_the_output_map_is_rescaled_with_depth() -> None:
    def largest(n_layers: int, rescale: bool) -> float:
        torch.manual_seed(0)
        knobs = {"rescale_out": rescale, "state_size": 2}
        model = build_model("s6", d_input=2, d_model=16, n_layers=n_layers, backbone_config=knobs)
        return model.stack.blocks[0].mixer.out_proj.weight.abs().max().item()

    assert largest(9, True) == pytest.approx(largest(9, False) / 3)
    assert largest(9, False) == pytest.approx(32**-0.5, rel=0.02)


def test_hints() -> None:
    model = build_model("s6", d_input=2, d_model=4, n_layers=1, backbone_config=QUICK | {"dt_lr_scale": 0.1})
    hints = {name.rpartition("inner.")[2]: hint for name, hint in gather_hints(model.stack.blocks[0]).items()}
    for name in ("ssm.A_log", "ssm.D", "ssm.dt_proj.bias"):
        assert (hints[name].weight_decay, hints[name].dtype) == (0.0, torch.float32), name
    assert hints["ssm.dt_proj.weight"].weight_decay is None
    assert hints["ssm.dt_proj.weight"].dtype is torch.float32
    assert hints["ssm.dt_proj.weight"].lr_scale == hints["ssm.dt_proj.bias"].lr_scale == 0.1
    assert hints["ssm.x_proj.weight"] == hints["weight"]  # the convolution's: ordinary
    assert hints["ssm.x_proj.weight"].weight_decay is None
    assert hints["bias"].weight_decay == 0.0


def test_the_residual_stream_stays_in_float32_under_autocast() -> None:
    block = build_model("s6", d_input=2, d_model=4, n_layers=1, backbone_config=QUICK).stack.blocks[0]
    assert isinstance(block, MambaBlock)
    x = torch.randn(1, 3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x)
        assert y.dtype == block.step(x[:, 0], state=state)[0].dtype == torch.float32


def test_no_time_passes_behind_the_end_of_a_sequence() -> None:
    """Sequences of unequal length that resets part: the padding of the shorter ones leaves no gap in the state."""
    torch.manual_seed(0)
    conv = (
        build_model("s6", d_input=2, d_model=4, n_layers=1, backbone_config=QUICK).stack.blocks[0].mixer.inner
    )
    x, reset = torch.randn(1, 9, 8), torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 6] = True
    _, state = conv(x, reset_bl=reset)
    _, alone = conv(x[:, 6:])
    torch.testing.assert_close(conv(x, state=state)[0], conv(x, state=alone)[0])


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 3, "eigenvalues": "complex"}, "must be even"),
        ({"expand": 0}, "at least 1"),
        ({"dt_rank": 0}, "dt_rank must be auto"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"dt_scale": 0.0}, "above 0"),
        ({"discretization": "dirac"}, "'euler', 'zoh' or 'bilinear'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("s6", d_input=3, backbone_config=knobs)


def test_what_it_does_not_take_is_refused() -> None:
    x = torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        S6(3, S6Config(**QUICK))(x, side={"B": x})
    conv = ConvSSM(S6(3, S6Config(**QUICK)), 4)
    with pytest.raises(ValueError, match=r"widths none, but got \{'B': 3\}"):
        conv(x, side={"B": x})
    assert SPEC.paper is not None
    assert SPEC.paper.arxiv == "2312.00752"


@pytest.mark.parametrize("eigenvalues", ["real", "complex"])
def test_the_intervals_it_tells_are_those_the_state_sees(eigenvalues):
    """What is left of an earlier state decays as exp(A t), t the intervals' sum."""
    s6 = S6(3, S6Config(**QUICK, eigenvalues=eigenvalues)).double()
    x, gaps = torch.randn(2, 7, 3).double(), torch.rand(2, 7).double() + 0.5
    empty = s6.init_state(2, dtype=torch.float64)
    with torch.no_grad():
        ends = [s6(x, dt_bl=gaps, state={"x": empty["x"] + start})[1]["x"] for start in (1.0, 0.0)]
        interval_bld = s6.intervals(x, dt_bl=gaps)
        decay = torch.exp(s6._A() * interval_bld.sum(1)[..., None])
    assert interval_bld.shape == x.shape
    torch.testing.assert_close(ends[0] - ends[1], decay)
