"""SeqBoat: the contract, and its selection and attention beside loops over the elements that are active."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssm_core import build_model
from ssm_core.backbones.seqboat.layer import SeqBoat, build
from ssm_core.backbones.seqboat.spec import SeqBoatConfig
from ssm_core.ema import EMA
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo
from ssm_core.testing import MixerSuite

QUICK = {"ema_dim": 3, "z_dim": 4, "hidden": 6, "window": 3}
SOFTMAX = QUICK | {"attention": "softmax", "position": "local"}
ROTARY = QUICK | {"position": "rotary", "attention": "softmax", "window": 1}
F64 = torch.float64


class TestBlock(MixerSuite):
    backbone = "seqboat"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6  # the moving average is a convolution by FFT
    zero_gap_is_noop = False  # attention counts elements


@pytest.mark.slow
class TestSoftmax(TestBlock):
    config = SOFTMAX


@pytest.mark.slow
class TestMixer(TestBlock):
    config = ROTARY
    part = "mixer"


@pytest.mark.slow
class TestAverage(TestBlock):
    config = QUICK
    part = "ssm"
    zero_gap_is_noop = True


def seqboat(width: int = 8, *, causal: bool = True, seed: int = 0, **knobs: Any) -> Any:
    """Build a mixer whose router is awake and whose attention matters."""
    torch.manual_seed(seed)
    info = LayerInfo(index=0, n_layers=1, d_model=width, causal=causal)
    config = SeqBoatConfig(**(QUICK | {"window": 2} | knobs))
    boat = SeqBoat(width, config, info, lambda name, make, inner: make(inner)).double()
    with torch.no_grad():
        for parameter in boat.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        # About half of all elements are active.
        mx, _ = boat.ema(2 * torch.randn(1, 200, width, dtype=F64))
        logits = mx @ boat.router.T + boat.router_bias
        boat.router_bias[1] -= (logits[..., 1] - logits[..., 0]).median()
    return boat


def naive(boat: SeqBoat, mx: torch.Tensor) -> torch.Tensor:
    """One row (L, D): find the active elements, then attend from each to its neighbours among them."""
    config = boat.config
    logits = mx @ boat.router.T + boat.router_bias
    p = torch.softmax(logits / boat.log_temperature.exp(), -1)[:, 1]
    active = [t for t in range(len(mx)) if p[t] > 0.5]
    base = F.silu(mx @ boat.mx_proj.weight.T + boat.mx_proj.bias)
    z, r, v = base.split([config.z_dim, boat.h_proj.in_features, boat.h_proj.in_features], -1)
    q, k = (z * boat.gamma[i] + boat.beta[i] for i in (0, 1))
    out = mx @ boat.hx_proj.weight.T + boat.hx_proj.bias
    for i, t in enumerate(active):
        last = i if boat.causal else i + config.window
        keys = list(range(max(0, i - config.window), min(last, len(active) - 1) + 1))
        scores = torch.stack([score(boat, q[t], k[active[j]], t, active[j], j - i) for j in keys])
        weights = scores.softmax(0) if config.attention == "softmax" else scores.relu() ** 2
        h = sum(w * v[active[j]] for w, j in zip(weights, keys, strict=True))
        out = out.index_add(0, torch.tensor([t]), p[t] * (boat.h_proj(h * r[t]))[None])
    return out


def score(boat: SeqBoat, q: torch.Tensor, k: torch.Tensor, t: int, s: int, offset: int) -> torch.Tensor:
    config = boat.config
    scale = 1 / math.sqrt(config.z_dim)
    if config.attention == "relu2":
        scale = 1 / (config.window * (1 if boat.causal else 2))
    if config.position == "rotary":
        return turned(q, t) @ turned(k, s) * scale
    assert boat.attention.bias is not None
    table = boat.attention.bias.table
    return q @ k * scale + table[len(table) // 2 + (offset if config.position == "local" else s - t)]


def turned(x: torch.Tensor, position: int) -> torch.Tensor:
    half = len(x) // 2
    angle = position * 10000.0 ** (-torch.arange(half, dtype=F64) / half)
    pairs = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("position", ["simple", "local", "rotary"])
@pytest.mark.parametrize("attention", ["relu2", "softmax"])
def test_it_is_attention_among_the_active_elements(attention: str, position: str, causal: bool) -> None:
    boat = seqboat(attention=attention, position=position, causal=causal, max_positions=40)
    x = 2 * torch.randn(3, 23, 8, dtype=F64)
    mx, _ = boat.ema(x)
    _, active = boat.route(mx)
    assert 0.2 < active.double().mean() < 0.8, "a test in which all or no elements are active shows nothing"
    y, _ = boat(x)
    for row in range(3):
        torch.testing.assert_close(y[row], naive(boat, mx[row]), rtol=1e-9, atol=1e-9)


def test_the_block_activates_the_sum() -> None:
    torch.manual_seed(0)
    for prenorm in (True, False):
        info = LayerInfo(index=0, n_layers=1, d_model=8, prenorm=prenorm)
        block: Any = build(SeqBoatConfig(**QUICK), info, lambda name, make, width: make(width)).double()
        x = torch.randn(2, 7, 8, dtype=F64)
        y, _ = block.mixer(block.norm(x) if prenorm else x)
        expected = F.silu(x + y) if prenorm else block.norm(F.silu(x + y))
        torch.testing.assert_close(block(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_all_or_no_elements_active(bias: float) -> None:
    """With none there is no attention; with all it is window attention over the sequence."""
    boat = seqboat()
    with torch.no_grad():
        boat.router_bias.copy_(torch.tensor([0.0, bias]))
    x = torch.randn(2, 9, 8, dtype=F64)
    mx, _ = boat.ema(x)
    y, _ = boat(x)
    if bias < 0:
        torch.testing.assert_close(y, boat.hx_proj(mx), rtol=1e-12, atol=1e-12)
    for row in range(2):
        torch.testing.assert_close(y[row], naive(boat, mx[row]), rtol=1e-9, atol=1e-9)


def test_rows_do_not_hear_of_each_others_counts() -> None:
    """The longest row of active elements sets the number of slots, and no other row's output."""
    boat = seqboat(attention="softmax")
    x = torch.randn(4, 19, 8, dtype=F64)
    together, _ = boat(x)
    counts = boat.route(boat.ema(x)[0])[1].sum(1)
    assert len(set(counts.tolist())) > 1
    for row in range(4):
        torch.testing.assert_close(boat(x[row : row + 1])[0], together[row : row + 1], rtol=1e-12, atol=1e-12)


def test_masked_elements_are_never_active() -> None:
    boat = seqboat()
    with torch.no_grad():
        boat.router_bias.copy_(torch.tensor([0.0, 100.0]))
    x, mask = torch.randn(1, 9, 8, dtype=F64), torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 0]]).bool()
    y, state = boat(x, mask_bl=mask)
    assert state["attention"]["count"].tolist() == [5]
    assert state["seen"].tolist() == [5]
    # Time passes at masked elements, in which the average goes on.
    gaps = torch.tensor([[1, 2, 1, 3, 1]], dtype=F64)
    torch.testing.assert_close(y[mask], boat(x[:, mask[0]], dt_bl=gaps)[0][0], rtol=1e-9, atol=1e-9)


def test_the_slots_that_no_row_fills_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled graphs run all slots; eager execution only those that are filled."""
    boat = seqboat()
    x = torch.randn(2, 17, 8, dtype=F64)
    short, after = boat(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    full, after_full = boat(x)
    torch.testing.assert_close(full, short, rtol=1e-12, atol=1e-12)
    for name, value in after["attention"].items():
        torch.testing.assert_close(after_full["attention"][name], value, rtol=1e-12, atol=1e-12)


def test_the_router_learns_through_the_probability() -> None:
    boat = seqboat()
    boat(torch.randn(2, 9, 8, dtype=F64))[0].square().sum().backward()
    assert boat.router.grad.abs().max() > 0
    assert boat.log_temperature.grad.abs().max() > 0


def test_the_starts() -> None:
    info = LayerInfo(index=0, n_layers=1, d_model=256)
    torch.manual_seed(0)
    boat = SeqBoat(256, SeqBoatConfig(temperature=0.3), info, lambda name, make, width: make(width))
    assert boat.log_temperature.item() == pytest.approx(math.log(0.3 * 16))
    for weight in (boat.hx_proj.weight, boat.mx_proj.weight, boat.h_proj.weight, boat.router):
        assert weight.abs().max().item() <= 0.04
        assert weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.1)
    assert boat.ema.truncated
    assert boat.ema.delta.abs().max().item() <= 0.4
    assert not boat.mx_proj.bias.any()
    assert not boat.router_bias.any()


def test_the_published_layer_has_its_number_of_parameters() -> None:
    """Pathfinder: width 128, hidden 256, z 64, 1024 positions, both ways."""
    d, hidden, z, n = 128, 256, 64, 16
    info = LayerInfo(index=0, n_layers=1, d_model=d, causal=False, norm="batch", max_length=1024)
    block = build(SeqBoatConfig(hidden=hidden, z_dim=z), info, lambda name, make, width: make(width))
    average = 2 * d * n * 4 + d
    maps = d * (2 + d) + 2 + d + d * (z + 2 * hidden) + z + 2 * hidden + hidden * d + d
    expected = average + maps + 1 + 4 * z + (2 * 1024 - 1) + 2 * d
    assert sum(p.numel() for p in block.parameters()) == expected


def test_the_router_and_the_average_stay_in_float32() -> None:
    info = LayerInfo(index=0, n_layers=1, d_model=4)
    block = build(SeqBoatConfig(), info, lambda name, make, width: make(width))
    hints = gather_hints(block)
    wide = {name.removeprefix("mixer.") for name, hint in hints.items() if hint.dtype is torch.float32}
    average = {f"ema.{name}" for name in ("delta", "alpha", "beta", "gamma", "omega")}
    assert wide == {"router", "router_bias", "log_temperature"} | average


def test_dropout_stands_where_the_original_has_it() -> None:
    """Causal blocks drop parts of the sum, so that some channels are the activated input; the others of h only."""
    for causal in (True, False):
        info = LayerInfo(index=0, n_layers=1, d_model=8, causal=causal, dropout=0.5)
        block: Any = build(SeqBoatConfig(**QUICK), info, lambda name, make, width: make(width))
        with torch.no_grad():
            block.mixer.hx_proj.bias.fill_(3.0)
        x = torch.randn(2, 9, 8)
        untouched = (block(x)[0] == F.silu(x)).float().mean().item()
        assert (0.3 < untouched < 0.7) if causal else untouched == 0
        block.eval()
        assert torch.equal(block(x)[0], block(x)[0])


def test_the_slots_hold_the_average_and_the_whole() -> None:
    held: dict[str, nn.Module] = {}

    def slot(name: str, make: Any, width: int) -> Any:
        held[name] = make(width)
        return held[name]

    build(SeqBoatConfig(), LayerInfo(index=0, n_layers=1, d_model=4), slot)
    assert isinstance(held["ssm"], EMA)
    assert isinstance(held["mixer"], SeqBoat)


def test_what_it_does_not_take_is_refused() -> None:
    boat, both = seqboat(), seqboat(causal=False)
    x = torch.randn(2, 4, 8, dtype=F64)
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        boat(x, side={"B": x})
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=boat.init_state(2))
    with pytest.raises(ValueError, match="causal=True"):
        both.step(x[:, 0], state=())
    boat.ema.takes_dt = False
    with pytest.raises(ValueError, match=r"task\.time=ignored"):
        boat(x, dt_bl=torch.ones(2, 4, dtype=F64))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"z_dim": 3, "position": "rotary"}, "must be even"),
        ({"attention_dropout": -0.1}, r"in \[0, 1\)"),
        ({"attention": "laplace"}, "'relu2' or 'softmax'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("seqboat", d_input=3, backbone_config=knobs)
