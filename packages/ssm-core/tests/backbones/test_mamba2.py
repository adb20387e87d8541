"""Mamba-2 keeps the mixer contract and is the published one: against a dense loop, and other people's logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core import build_model
from ssm_core.backbones.mamba2.gated import GatedNorm
from ssm_core.backbones.mamba2.layer import SSD, side_widths
from ssm_core.backbones.mamba2.spec import Mamba2Config
from ssm_core.mamba import ConvSSM
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import LayerInfo, Mixer
from ssm_core.testing import MixerSuite

QUICK = {"head_dim": 2, "state_size": 4, "chunk_size": 8, "dt_min": 0.05, "dt_max": 0.5}


class WithSide(nn.Module):
    """Computes what a part of the block wants beside x from x itself, so that the suite can call it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.widths = inner.side_widths
        self.map = nn.Linear(inner.d_model, sum(self.widths.values()))

    d_model = property(lambda self: self.inner.d_model)
    causal = property(lambda self: self.inner.causal)
    streaming = property(lambda self: self.inner.streaming)
    takes_dt = property(lambda self: self.inner.takes_dt)

    def init_state(self, batch_size: int, **given: Any) -> Any:
        return self.inner.init_state(batch_size, **given)

    def side(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = x if mask is None else torch.where(mask[..., None], x, 0)
        return dict(zip(self.widths, self.map(x).split(list(self.widths.values()), -1), strict=True))

    def forward(self, x_bld: Tensor, *, mask_bl: Tensor | None = None, **given: Any) -> Any:
        return self.inner(x_bld, mask_bl=mask_bl, **{**given, "side": self.side(x_bld, mask_bl)})

    def step(self, x_bd: Tensor, **given: Any) -> Any:
        return self.inner.step(x_bd, **{**given, "side": self.side(x_bd)})


class TestBlock(MixerSuite):
    backbone = "mamba2"
    config = QUICK
    widths = (1, 4)
    zero_gap_is_noop = False  # the convolution counts elements


@pytest.mark.slow
class TestGroups(TestBlock):
    config = QUICK | {"groups": 2, "dt_low": 0.1, "dt_high": 0.6, "bias": True, "conv_bias": False}
    widths = (2, 6)


@pytest.mark.slow
class TestConv(MixerSuite):
    backbone = "mamba2"
    config = QUICK | {"expand": 1}
    part = "mixer"
    widths = (2, 6)
    capabilities = Capabilities(bidirectional=False, dt=True)
    zero_gap_is_noop = False

    def make(self, width: int, causal: bool) -> Mixer:
        return WithSide(super().make(width, causal))


@pytest.mark.slow
class TestScan(MixerSuite):
    backbone = "mamba2"
    part = "ssm"
    widths = (2, 6)
    capabilities = Capabilities(bidirectional=False, dt=True)

    def make(self, width: int, causal: bool) -> Mixer:
        return WithSide(SSD(width, Mamba2Config(**QUICK)))

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():  # exp(f dt A) and f dt B: as if A and B had grown
            mixer.inner.A_log += math.log(factor)
            mixer.map.weight[:4] *= factor
            mixer.map.bias[:4] *= factor
        return mixer


def dense(ssd: SSD, x: Tensor, side: Mapping[str, Tensor], gaps: Tensor) -> Tensor:
    """The recurrence written out, one head, one channel, one state vector at a time."""
    config, p, n = ssd.config, ssd.config.head_dim, ssd.config.state_size
    out = torch.empty_like(x)
    for row in range(x.shape[0]):
        for channel in range(x.shape[2]):
            head = channel // p
            group = head // (ssd.heads // config.groups)
            s = torch.zeros(n, dtype=x.dtype)
            for time in range(x.shape[1]):
                dt = torch.log(1 + torch.exp(side["dt"][row, time, head] + ssd.dt_bias[head]))
                dt = max(config.dt_low, min(config.dt_high or math.inf, dt)) * gaps[row, time]
                b, c = (side[name][row, time, group * n : (group + 1) * n] for name in ("B", "C"))
                s = torch.exp(-dt * torch.exp(ssd.A_log[head])) * s + dt * b * x[row, time, channel]
                out[row, time, channel] = c @ s + ssd.D[head] * x[row, time, channel]
    return out


@pytest.mark.parametrize("knobs", [{}, {"groups": 3}, {"dt_low": 0.3, "dt_high": 0.8}, {"chunk_size": 2}])
def test_it_is_the_recurrence(knobs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ssd = SSD(6, Mamba2Config(**QUICK | knobs)).double()
    with torch.no_grad():
        ssd.D.uniform_(0.5, 2.0)
        x, gaps = torch.randn(2, 6, 6, dtype=torch.float64), 3 * torch.rand(2, 6, dtype=torch.float64)
        side = {
            name: torch.randn(2, 6, width, dtype=torch.float64) for name, width in ssd.side_widths.items()
        }
        y, _ = ssd(x, dt_bl=gaps, side=side)
        torch.testing.assert_close(y, dense(ssd, x, side, gaps), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_block_is_the_published_one(groups: int) -> None:
    torch.manual_seed(0)
    knobs = QUICK | {"groups": groups}
    model = build_model(
        "mamba2", d_input=3, d_model=6, n_layers=1, model_config={"norm": "rms"}, backbone_config=knobs
    ).double()
    block, x = model.stack.blocks[0], torch.randn(2, 7, 6, dtype=torch.float64)
    conv: ConvSSM = block.mixer.inner
    with torch.no_grad():
        block.mixer.norm.weight.uniform_(0.5, 2.0)
        y, _ = block(x)
        g = 4 * groups
        parts = block.mixer.in_proj(x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5))
        z, xbc, dt = parts.split([12, 12 + 2 * g, 6], -1)
        xbc = F.conv1d(xbc.mT, conv.weight[:, None], conv.bias, padding=3, groups=12 + 2 * g)[..., :7].mT
        inner, b, c = F.silu(xbc).split([12, g, g], -1)
        inner = dense(conv.ssm, inner, {"B": b, "C": c, "dt": dt}, torch.ones(2, 7, dtype=torch.float64))
        gated = (inner * F.silu(z)).view(2, 7, groups, -1)
        gated = gated / torch.sqrt(gated.square().mean(-1, keepdim=True) + 1e-5)
        expected = x + block.mixer.out_proj(gated.flatten(-2) * block.mixer.norm.weight)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_without_the_gated_norm_the_gate_is_all() -> None:
    knobs = QUICK | {"gated_norm": False}
    block = build_model("mamba2", d_input=3, d_model=2, n_layers=1, backbone_config=knobs).stack.blocks[0]
    y, z = torch.randn(2, 3, 4)
    torch.testing.assert_close(block.mixer._out(y, z), block.mixer.out_proj(y * F.silu(z)))
    assert GatedNorm(4, 1)(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_slots_are_offered_one_tensor_and_what_comes_beside_it() -> None:
    """A resampler on `mixer` makes it at other widths; what it is to hand on beside x is known from the mixer."""
    made: dict[str, Any] = {}

    def slot(name: str, make: Any, width: int) -> Mixer:
        made[name] = make
        return make(width)

    from ssm_core.backbones.mamba2.layer import build

    config = Mamba2Config(**QUICK)
    build(config, LayerInfo(index=0, n_layers=1, d_model=4), slot)
    half = made["mixer"](4)
    assert half.side_widths == side_widths(4, config) == {"B": 4, "C": 4, "dt": 2}
    side = {name: torch.randn(2, 5, width) for name, width in half.side_widths.items()}
    assert half(torch.randn(2, 5, 4), side=side)[0].shape == (2, 5, 4)
    with pytest.raises(ValueError, match="multiple of head_dim 2"):
        made["mixer"](3)
    with pytest.raises(ValueError, match="needs beside x"):
        made["ssm"](4)(torch.randn(2, 5, 4), side={"B": side["B"]})


def test_the_number_of_parameters_at_the_published_dimensions() -> None:
    """Of mamba2-130m, whose head is tied to the embedding; summed by hand from its widths."""
    with torch.device("meta"):
        model = build_model("mamba2", vocab=50288, d_model=768, n_layers=24, model_config={"norm": "rms"})
    assert sum(p.numel() for p in model.parameters()) == 128_989_632


def test_the_start() -> None:
    torch.manual_seed(0)
    ssd = SSD(2000, Mamba2Config(head_dim=1, state_size=1))
    rates, steps = torch.exp(ssd.A_log), F.softplus(ssd.dt_bias)
    assert 1 <= rates.min() < 1.1
    assert 15.9 < rates.max() <= 16
    assert rates.mean().item() == pytest.approx(8.5, rel=0.05)
    assert 0.999e-3 <= steps.min() < 1.1e-3
    assert 0.09 < steps.max() <= 0.1001
    assert steps.log().mean().item() == pytest.approx(math.log(1e-4) / 2, abs=0.1)
    assert torch.equal(ssd.D, torch.ones(2000))


def test_hints() -> None:
    model = build_model("mamba2", d_input=2, d_model=4, n_layers=1, backbone_config=QUICK)
    hints = gather_hints(model.stack.blocks[0].mixer)
    for name in ("A_log", "D", "dt_bias"):
        hint = hints[f"inner.ssm.{name}"]
        assert (hint.weight_decay, hint.dtype) == (0.0, torch.float32), name
    assert hints["norm.weight"].weight_decay == 0.0
    assert hints["in_proj.weight"].weight_decay is None


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"head_dim": 0}, "head_dim must be at least 1"),
        ({"a_min": 0.0}, "0 < a_min"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"dt_high": 0.0}, "dt_low < dt_high"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("mamba2", d_input=3, backbone_config=knobs)


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="inner width 6 must be a multiple of head_dim 4"):
        build_model("mamba2", d_input=3, d_model=3, backbone_config={"head_dim": 4})
    with pytest.raises(ConfigError, match="groups 2 must divide the 3 heads"):
        build_model("mamba2", d_input=3, d_model=3, backbone_config={"head_dim": 2, "groups": 2})


def test_the_intervals_it_tells_are_those_the_state_sees():
    """What is left of an earlier state decays as exp(A t), t the intervals' sum."""
    ssd = SSD(4, Mamba2Config(**QUICK | {"dt_high": 0.4})).double()
    x, gaps = torch.randn(2, 7, 4).double(), torch.rand(2, 7).double() + 0.5
    side = {name: torch.randn(2, 7, width).double() for name, width in ssd.side_widths.items()}
    empty = ssd.init_state(2, dtype=torch.float64)
    with torch.no_grad():
        ends = [
            ssd(x, dt_bl=gaps, side=side, state={"S": empty["S"] + start})[1]["S"] for start in (1.0, 0.0)
        ]
        interval_blh = ssd.intervals(x, dt_bl=gaps, side=side)
        decay = torch.exp(-ssd.A_log.exp() * interval_blh.sum(1))
    assert interval_blh.shape == (2, 7, 2)
    torch.testing.assert_close(ends[0] - ends[1], decay[..., None, None].expand_as(ends[0]))
