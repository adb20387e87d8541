"""Mega: the contract, and its parts beside the formulas of the paper written out in loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssm_core import build_model
from ssm_core.backbones.mega.attention import ChunkAttention, laplace
from ssm_core.backbones.mega.layer import Mega, build
from ssm_core.backbones.mega.positions import RotaryBias, SimpleBias, by_rows
from ssm_core.backbones.mega.spec import MegaConfig
from ssm_core.ema import EMA
from ssm_core.norms import BatchNorm
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo
from ssm_core.testing import MixerSuite

QUICK = {"ema_dim": 3, "z_dim": 4, "hidden": 6, "chunk_size": 5}
WHOLE = {"ema_dim": 2, "z_dim": 4, "attention": "laplace", "position": "rotary"}
F64 = torch.float64


class TestBlock(MixerSuite):
    backbone = "mega"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6  # the moving average is a convolution by FFT
    zero_gap_is_noop = False  # attention counts elements


@pytest.mark.slow
class TestWhole(TestBlock):
    config = WHOLE


@pytest.mark.slow
class TestMixer(TestBlock):
    config = QUICK | {"attention": "relu2", "chunk_size": None, "max_positions": 7}
    part = "mixer"


@pytest.mark.slow
class TestAverage(TestBlock):
    config = QUICK
    part = "ssm"
    zero_gap_is_noop = True


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["scale", "batch"])
class TestNorms(TestBlock):
    @pytest.fixture(autouse=True)
    def _choose(self, norm: str) -> None:
        self.norm = norm

    def layer(self, width: int, causal: bool) -> LayerInfo:
        return LayerInfo(index=0, n_layers=1, d_model=width, causal=causal, norm=self.norm, prenorm=False)


def naive_attention(
    kind: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Any, chunk: int, causal: bool
) -> torch.Tensor:
    """One row (L, ...), element by element; ``bias(distance)`` with distance = key - query."""
    out = []
    for i in range(len(q)):
        first = i // chunk * chunk
        last = i if causal else min(first + chunk, len(q)) - 1
        keys = range(first, last + 1)
        scores = torch.stack([q[i] @ k[j] for j in keys])
        biases = torch.stack([bias(j - i) for j in keys])
        if kind == "softmax":
            weights = torch.softmax(scores / math.sqrt(q.shape[1]) + biases, 0)
        else:
            scores = scores / len(keys) + biases
            mu, sigma = 0.707107, 0.282095
            weights = (
                0.5 * (1 + torch.erf((scores - mu) / (sigma * math.sqrt(2))))
                if kind == "laplace"
                else torch.relu(scores) ** 2
            )
        out.append(sum(w * v[j] for w, j in zip(weights, keys, strict=True)))
    return torch.stack(out)


def attention(kind: str, chunk: int | None, causal: bool, rotary: bool = False) -> ChunkAttention:
    torch.manual_seed(0)
    positions = RotaryBias(4) if rotary else SimpleBias(20)
    with torch.no_grad():
        for parameter in positions.parameters():
            parameter.normal_()
    return ChunkAttention(4, 3, kind, positions, chunk=chunk, causal=causal).double()


def distance_bias(positions: SimpleBias | RotaryBias) -> Any:
    if isinstance(positions, SimpleBias):
        return lambda distance: positions.table[distance + 19]
    angles = 10000.0 ** (-torch.arange(2, dtype=F64) / 2)
    rotation = [
        lambda t, w=w: torch.tensor(
            [[math.cos(t * w), -math.sin(t * w)], [math.sin(t * w), math.cos(t * w)]], dtype=F64
        )
        for w in angles.tolist()
    ]

    def rotated(vector: torch.Tensor, t: int) -> torch.Tensor:
        pairs = [rotation[i](t) @ vector[[i, i + 2]] for i in (0, 1)]
        return torch.cat(pairs)

    return lambda distance: rotated(positions.a, 3) @ rotated(positions.b, 3 + distance)


@pytest.mark.parametrize("kind", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize(("chunk", "causal"), [(None, True), (4, True), (4, False), (None, False)])
def test_attention_is_the_naive_one(kind: str, chunk: int | None, causal: bool) -> None:
    q, k = 2 * torch.randn(2, 2, 11, 4, dtype=F64)
    v = torch.randn(2, 11, 3, dtype=F64)
    lengths = torch.tensor([11, 6])
    for rotary in (False, True):
        layer = attention(kind, chunk, causal, rotary)
        y, _ = layer(q, gaps_bl=None, lengths_b=lengths, state=None, k=k, v=v)
        for row, n in enumerate(lengths.tolist()):
            expected = naive_attention(
                kind, q[row, :n], k[row, :n], v[row, :n], distance_bias(layer.positions), chunk or n, causal
            )
            # The naive code has mu and sigma as the paper prints them, to six digits.
            torch.testing.assert_close(
                y[row, :n], expected, rtol=1e-5, atol=1e-5 if kind == "laplace" else 1e-9
            )


def test_one_chunk_that_covers_all_is_full_attention() -> None:
    q, k = torch.randn(2, 2, 11, 4, dtype=F64)
    v = torch.randn(2, 11, 3, dtype=F64)
    for kind in ("softmax", "laplace", "relu2"):
        for causal in (True, False):
            found = [
                attention(kind, chunk, causal)(q, gaps_bl=None, lengths_b=None, state=None, k=k, v=v)[0]
                for chunk in (None, 11, 16)
            ]
            torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[2], found[0], rtol=1e-12, atol=1e-12)


def test_distances_beyond_the_last_share_its_bias() -> None:
    numbers = SimpleBias(3)
    with torch.no_grad():
        numbers.table.copy_(torch.arange(5.0))
    assert numbers(5).tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    assert by_rows(numbers(3)).tolist() == [[2, 3, 4], [1, 2, 3], [0, 1, 2]]


def test_laplace_meets_squared_relu_at_the_root_of_a_half() -> None:
    x = torch.tensor(math.sqrt(0.5), dtype=F64, requires_grad=True)
    y = laplace(x)
    (slope,) = torch.autograd.grad(y, x)
    assert y.item() == pytest.approx(0.5)
    assert slope.item() == pytest.approx(math.sqrt(2))


def block(width: int = 8, **knobs: Any) -> nn.Module:
    layer = {name: knobs.pop(name) for name in ("norm", "prenorm", "causal", "dropout") if name in knobs}
    torch.manual_seed(0)
    info = LayerInfo(index=0, n_layers=1, d_model=width, **layer)
    return build(MegaConfig(**knobs), info, lambda name, make, inner: make(inner))


@pytest.mark.parametrize("prenorm", [True, False])
def test_the_block_is_the_equations(prenorm: bool) -> None:
    whole = block(z_dim=4, hidden=6, prenorm=prenorm).double()
    mega: Any = whole.mixer
    x = torch.randn(2, 7, 8, dtype=F64)
    inner = mega.norm(x) if prenorm else x
    mx, _ = mega.ema(inner)
    base = mx @ mega.mx_proj.weight.T + mega.mx_proj.bias
    u, z, r, hx = base[..., :8].sigmoid(), F.silu(base[..., 8:12]), F.silu(base[..., 12:18]), base[..., 18:]
    v = F.silu(mega.v_proj(inner))
    q, k = z * mega.gamma[0] + mega.beta[0], z * mega.gamma[1] + mega.beta[1]
    bias = by_rows(mega.attention.positions(7))
    scores = (q @ k.mT / 2 + bias).masked_fill(~torch.ones(7, 7).tril().bool(), -torch.inf)
    h = F.silu(hx + mega.h_proj((scores.softmax(-1) @ v) * r))
    out = x + u * (h - x)
    out = out if prenorm else whole.norm(out)
    then = whole.then
    f = then.down(F.silu(then.up(then.norm(out) if prenorm else out)))
    expected = out + f if prenorm else then.norm(out + f)
    torch.testing.assert_close(whole(x)[0], expected, rtol=1e-9, atol=1e-9)


def test_the_starts() -> None:
    mega: Any = block(width=300).mixer
    for name, std in (("delta", 0.2), ("alpha", 0.2), ("gamma", 1.0)):
        assert getattr(mega.ema, name).std().item() == pytest.approx(std, rel=0.1)
        assert getattr(mega.ema, name).mean().item() == pytest.approx(0, abs=0.1 * std)
    assert mega.ema.omega.std().item() == pytest.approx(1, rel=0.2)
    assert mega.ema.beta[..., ::2].mean().item() == pytest.approx(1, abs=0.01)
    assert mega.ema.beta[..., 1::2].mean().item() == pytest.approx(-1, abs=0.01)
    assert mega.ema.beta[..., ::2].std().item() == pytest.approx(0.02, rel=0.1)
    for weight in (
        mega.v_proj.weight,
        mega.mx_proj.weight,
        mega.h_proj.weight,
        mega.attention.positions.table,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not mega.mx_proj.bias.any()
    assert not mega.beta.any()
    cut = EMA(300, truncated=True)
    assert cut.delta.abs().max().item() <= 0.4
    assert (cut.beta[..., 1::2] + 1).abs().max().item() <= 0.04


@pytest.mark.parametrize(
    ("d", "hidden", "z", "causal"), [(80, 160, 64, False), (128, 256, 64, False), (160, 320, 96, True)]
)
def test_published_layers_have_their_number_of_parameters(d: int, hidden: int, z: int, causal: bool) -> None:
    ways, n, reach = 1 if causal else 2, 16, 2048
    average = ways * d * n * 4 + d
    attention = d * hidden + hidden + d * (z + hidden + 2 * d) + (z + hidden + 2 * d) + hidden * d + d + 4 * z
    feed_forward = d * hidden + hidden + hidden * d + d
    expected = average + attention + (2 * reach - 1) + feed_forward + 2 * 2 * d
    found = block(d, hidden=hidden, z_dim=z, max_positions=reach, causal=causal)
    assert sum(p.numel() for p in found.parameters()) == expected


def test_the_average_stays_in_float32_and_all_weights_decay() -> None:
    hints = gather_hints(block(norm="scale"))
    wide = {name for name, hint in hints.items() if hint.dtype is torch.float32}
    assert wide == {f"mixer.ema.{name}" for name in ("delta", "alpha", "beta", "gamma", "omega")}
    assert all(hint.lr_scale == 1 for hint in hints.values())
    assert hints["mixer.ema.omega"].weight_decay is None
    assert hints["mixer.gamma"].weight_decay is None


@pytest.mark.parametrize("prenorm", [True, False])
def test_batch_norm_counts_valid_elements_only(prenorm: bool) -> None:
    whole = block(norm="batch", prenorm=prenorm, causal=False).train()
    norms = [each for each in whole.modules() if isinstance(each, BatchNorm)]
    assert len(norms) == 2
    x, mask = torch.randn(2, 9, 8), torch.arange(9) < torch.tensor([[9], [4]])
    padded, _ = whole(x.masked_fill(~mask[..., None], torch.nan), mask_bl=mask)
    longer, _ = whole(F.pad(x, (0, 0, 0, 5)), mask_bl=F.pad(mask, (0, 5)))
    torch.testing.assert_close(padded[mask], longer[:, :9][mask], rtol=1e-5, atol=1e-5)
    assert all(each.running_mean.isfinite().all() for each in norms)


def test_dropout_acts_in_training_only() -> None:
    for knobs in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"hidden_dropout": 0.5}):
        whole: Any = block(**knobs)
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter.add_(0.3)
        x = torch.randn(2, 9, 8)
        assert not torch.equal(whole.mixer(x)[0], whole.mixer(x)[0]), knobs
        whole.eval()
        assert torch.equal(whole(x)[0], whole(x)[0])


def test_the_published_settings_can_be_said() -> None:
    """ListOps, Text and Image of table 9 and WikiText-103: norm kinds, attention, chunks, dropouts."""
    for d, knobs, stack in (
        (80, {"hidden": 160, "z_dim": 64}, {"norm": "layer", "prenorm": False}),
        (128, {"hidden": 256, "z_dim": 64, "chunk_size": 128}, {"norm": "scale", "prenorm": False}),
        (160, {"hidden": 320, "z_dim": 96, "attention": "laplace"}, {"norm": "batch"}),
        (
            64,
            {"hidden": 128, "ffn": 96, "position": "rotary", "chunk_size": 16, "attention_dropout": 0.1},
            {},
        ),
    ):
        model = build_model(
            "mega", d_input=1, d_model=d, n_layers=1, causal=False, model_config=stack, backbone_config=knobs
        )
        assert model(torch.randn(1, 40, 1))[0].shape == (1, 40, d)


def test_the_slots_hold_the_average_and_the_gated_attention() -> None:
    held: dict[str, nn.Module] = {}

    def slot(name: str, make: Any, width: int) -> Any:
        held[name] = make(width)
        return held[name]

    build(MegaConfig(), LayerInfo(index=0, n_layers=1, d_model=4), slot)
    assert isinstance(held["ssm"], EMA)
    assert isinstance(held["mixer"], Mega)
    assert held["mixer"].ema is held["ssm"]


def test_the_longest_sequence_of_the_task_sets_the_biases() -> None:
    def table(config: MegaConfig, max_length: int | None) -> int:
        info = LayerInfo(index=0, n_layers=1, d_model=4, max_length=max_length)
        block: Any = build(config, info, lambda name, make, width: make(width))
        return len(block.mixer.attention.positions.table)

    assert table(MegaConfig(), 30) == 59
    assert table(MegaConfig(), None) == 2047
    assert table(MegaConfig(chunk_size=5), 30) == 9
    assert table(MegaConfig(chunk_size=5, max_positions=4), 30) == 7


def test_what_it_does_not_take_is_refused() -> None:
    mega, both = block().mixer, block(causal=False).mixer
    x = torch.randn(2, 4, 8)
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        mega(x, side={"B": x})
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=mega.init_state(2))
    with pytest.raises(ValueError, match="causal=True"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional"):
        mega.ema(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="cannot step"):
        both.ema.step(x[:, 0], state=())


def test_gaps_are_refused_where_the_slot_takes_none() -> None:
    mega: Any = block().mixer
    mega.ema.takes_dt = False
    assert not mega.takes_dt
    with pytest.raises(ValueError, match=r"task\.time=ignored"):
        mega(torch.randn(2, 4, 8), dt_bl=torch.ones(2, 4))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"z_dim": 0}, "z_dim must be at least 1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"z_dim": 3, "position": "rotary"}, "must be even"),
        ({"hidden_dropout": 1.0}, r"in \[0, 1\)"),
        ({"attention": "linear"}, "'softmax', 'laplace' or 'relu2'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("mega", d_input=3, backbone_config=knobs)
