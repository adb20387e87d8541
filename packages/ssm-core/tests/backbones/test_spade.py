"""SPADE: its local attention against full attention under a mask, its branches put together by hand, its sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_core import build_model
from ssm_core.attention import Attention
from ssm_core.backbones.s4.layer import S4
from ssm_core.backbones.s4d.layer import S4D
from ssm_core.backbones.spade.layer import Spade, local_attention
from ssm_core.backbones.spade.spec import SpadeConfig
from ssm_core.compose import Addon
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo, Make, Mixer
from ssm_core.testing import MixerSuite
from ssm_core.testing.subject import build_parts
from ssm_core.testing.trees import leaves

QUICK = {"window": 7, "buckets": 4, "max_distance": 6, "state_size": 4, "ffn_width": 4, "dt_min": 0.05}


class TestBlock(MixerSuite):
    """With the diagonal branch, which is quicker."""

    backbone = "spade"
    config = QUICK | {"global_branch": "s4d"}
    widths = (1, 4)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestMixer(MixerSuite):
    backbone = "spade"
    config = QUICK | {"combine": "add", "weight": 0.3}
    part = "mixer"
    widths = (2, 6)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestStack(MixerSuite):
    backbone = "spade"
    config = QUICK | {"combine": "stack", "n_ssm": 0, "relative": False}
    part = "mixer"
    widths = (2, 6)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestGlobalBranch(MixerSuite):
    backbone = "spade"
    config = QUICK
    part = "ssm"
    widths = (1, 4)
    causal_tolerance = 1e-6


@pytest.mark.slow
class TestUpperLayer(MixerSuite):
    backbone = "spade"
    config = QUICK
    part = "mixer"
    widths = (2, 6)

    def layer(self, width: int, causal: bool) -> LayerInfo:
        return LayerInfo(index=1, n_layers=2, d_model=width, causal=causal)


def shaken(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def mixer_of(index: int = 0, width: int = 6, causal: bool = True, **knobs: Any) -> Any:
    torch.manual_seed(0)
    layer = LayerInfo(index=index, n_layers=3, d_model=width, causal=causal)
    return shaken(build_parts("spade", {**QUICK, "heads": 2, **knobs}, layer)["mixer"])


def t5_bucket(offset: int, buckets: int, max_distance: int, causal: bool) -> int:
    """The formula of T5's relative positions, as it stands in the paper's code, in floating point."""
    bucket = 0
    if not causal:
        buckets //= 2
        bucket = buckets if offset > 0 else 0
    distance, exact = abs(offset), buckets // 2
    if distance < exact:
        return bucket + distance
    scaled = math.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact)
    return bucket + min(exact + int(scaled + 1e-9), buckets - 1)


def full_attention(layer: Attention, x_ld: Tensor, max_distance: int) -> Tensor:
    """All L x L scores of each head, those out of sight at minus infinity."""
    length, heads = len(x_ld), layer.heads
    q, k, v = (x_ld @ layer.qkv.weight.mT).chunk(3, -1)
    i, j = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
    seen = ((i - j).abs() < layer.window) & ((j <= i) | (not layer.causal))
    out = []
    for head, (qh, kh, vh) in enumerate(zip(*(part.chunk(heads, -1) for part in (q, k, v)), strict=True)):
        scores = qh @ kh.mT / math.sqrt(qh.shape[-1])
        if layer.relative is not None:
            count = len(layer.relative.weight)
            numbers = [t5_bucket(o, count, max_distance, layer.causal) for o in range(1 - length, length)]
            bias = layer.relative.weight[torch.tensor(numbers), head]
            scores = scores + bias[j - i + length - 1].where(seen, 0)
        out.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ vh)
    return torch.cat(out, -1) @ layer.out.weight.mT


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("window", [1, 4, 30])
def test_local_attention_is_full_attention_under_a_mask(causal: bool, relative: bool, window: int) -> None:
    torch.manual_seed(0)
    config = SpadeConfig(heads=2, window=window, buckets=8, max_distance=20, relative=relative)
    layer = shaken(local_attention(6, config, causal))
    for length in (1, 4, 21):
        x = torch.randn(2, length, 6, dtype=torch.float64)
        expected = torch.stack([full_attention(layer, row, 20) for row in x])
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("combine", ["concat", "add", "stack"])
@pytest.mark.parametrize("branch", ["s4", "s4d"])
def test_the_two_branches_are_put_together_as_the_paper_says(causal: bool, combine: str, branch: str) -> None:
    mixer = mixer_of(causal=causal, combine=combine, weight=0.3, global_branch=branch)
    assert isinstance(mixer.ssm, S4 if branch == "s4" else S4D)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    g, _ = mixer.ssm(x)
    local = g if combine == "stack" else x
    a = torch.stack([full_attention(mixer.attention, row, 6) for row in local])

    def normed(y: Tensor, norm: Any) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias

    if combine != "stack":
        g, a = normed(g, mixer.norm_ssm), normed(a, mixer.norm_attention)
    if combine == "concat":
        w = mixer.aggregate.weight
        a = g @ w[:, :6].mT + a @ w[:, 6:].mT + mixer.aggregate.bias
    elif combine == "add":
        a = 0.3 * g + 0.7 * a
    torch.testing.assert_close(mixer(x)[0], a, rtol=1e-9, atol=1e-9)


def test_only_some_layers_have_the_global_branch() -> None:
    for every, wanted in ((100, [0]), (2, [0, 2]), (1, [0, 1, 2])):
        model = build_model(
            "spade", d_input=2, d_model=4, n_layers=3, backbone_config={**QUICK, "every": every}
        )
        with_ssm = [i for i, block in enumerate(model.stack.blocks) if isinstance(block.mixer, Spade)]
        assert with_ssm == wanted
        assert all(isinstance(model.stack.blocks[i].mixer, Attention) for i in {0, 1, 2} - set(wanted))


def test_the_slots_hold_the_global_branch_and_both_together() -> None:
    layer = LayerInfo(index=0, n_layers=2, d_model=4)
    parts = build_parts("spade", QUICK, layer)
    assert isinstance(parts["ssm"], S4)
    assert isinstance(parts["mixer"], Spade)
    assert parts["mixer"].ssm is parts["ssm"]
    assert build_parts("spade", QUICK, LayerInfo(index=1, n_layers=2, d_model=4)).keys() == {"mixer", "block"}


def test_the_mixer_is_built_at_another_width_as_a_whole() -> None:
    """As an add-on that shares the width out over branches asks for it."""
    widths = []

    def wrap(make: Make, width: int, layer: LayerInfo) -> Mixer:
        inner = make(width // 2)
        widths.append((inner.d_model, inner.ssm.d_model))
        return make(width)

    layer = LayerInfo(index=0, n_layers=1, d_model=8)
    build_parts("spade", QUICK, layer, [Addon("half", "mixer", wrap)])
    assert widths == [(4, 4)]


def test_the_state_is_one_window_and_one_state_however_far_it_steps() -> None:
    mixer = mixer_of()
    x = torch.randn(2, 60, 6, dtype=torch.float64)
    y, _ = mixer(x)
    state = mixer.init_state(2)
    sizes = [leaf.shape for leaf in leaves(state)]
    for time in range(60):
        out, state = mixer.step(x[:, time], state=state)
        torch.testing.assert_close(out, y[:, time], rtol=1e-8, atol=1e-8)
    assert [leaf.shape for leaf in leaves(state)] == sizes
    assert state["attention"]["k"].shape == (2, 6, 2, 3)


def test_the_global_branch_carries_what_the_windows_forget() -> None:
    """Without it, n layers of windows reach n (window - 1) elements back and not one more."""
    for every, reaches in ((1, True), (None, False)):
        parts = [mixer_of(index=i if every is None else 0, window=3) for i in (1, 2)]
        x = torch.randn(1, 9, 6, dtype=torch.float64, requires_grad=True)
        y = parts[1](parts[0](x)[0])[0]
        gradient = torch.autograd.grad(y[:, -1].sum(), x)[0].abs().amax((0, 2))
        assert (gradient[4:] > 0).all()
        assert bool(gradient[0] > 1e-9) is reaches


def test_number_of_parameters() -> None:
    """A layer of the released language model: 1024 wide, 8 heads, 4096 inside, N = 64, a state space a channel."""
    d, n, h = 1024, 64, 4096
    knobs = {"heads": 8, "window": 512, "state_size": n, "n_ssm": 4}
    blocks = build_model("spade", d_input=2, d_model=d, n_layers=2, backbone_config=knobs).stack.blocks
    upper = 4 * d * d + 32 * 8 + 2 * d * h + d + h + 4 * d
    # A_real, A_imag (4, N/2); P, B (4, N/2) and C (D, N/2) complex; D and the step; two norms and a map of both.
    branch = 4 * 3 * n + d * n + 2 * d
    combined = 4 * d + 2 * d * d + d
    assert [sum(p.numel() for p in block.parameters()) for block in blocks] == [
        upper + branch + combined,
        upper,
    ]


def test_the_start_of_the_attention_and_the_biases() -> None:
    torch.manual_seed(0)
    layer = local_attention(128, SpadeConfig(heads=64), True)
    for matrix in layer.qkv.weight.chunk(3):
        assert matrix.std().item() == pytest.approx(math.sqrt(6 / 256 / 3 / 2), rel=0.05)
    assert layer.out.weight.std().item() == pytest.approx(math.sqrt(6 / 256 / 3), rel=0.05)
    assert layer.relative.weight.shape == (32, 64)
    assert layer.relative.weight.std().item() == pytest.approx(1.0, rel=0.1)
    assert layer.qkv.bias is None


def test_the_state_space_model_keeps_its_own_rates() -> None:
    model = build_model("spade", d_input=2, d_model=4, n_layers=2, backbone_config={**QUICK, "lr_scale": 0.5})
    hints = gather_hints(model)
    assert hints["stack.blocks.0.mixer.ssm.B"].lr_scale == 0.5
    assert hints["stack.blocks.0.mixer.ssm.B"].weight_decay == 0
    assert hints["stack.blocks.0.mixer.attention.qkv.weight"].lr_scale == 1


def test_what_it_does_not_take_is_refused() -> None:
    causal, both = mixer_of(), mixer_of(causal=False)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"dt_bl.*task\.time=ignored or appended"):
        causal(x, dt_bl=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        causal(x, side={"B": x})
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=causal.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ConfigError, match="spade's 3 heads do not divide the width 64"):
        build_model("spade", d_input=3, backbone_config={"heads": 3})


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"buckets": 7}, "buckets must be even"),
        ({"buckets": 32, "max_distance": 16}, "max_distance must be above"),
        ({"weight": 1.5}, "weight must be in"),
        ({"state_size": 3}, "state_size 3 must be even"),
        ({"n_ssm": -1}, "n_ssm"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"lr_scale": 0.0}, "lr_scale"),
        ({"dropout_attention": 1.0}, "dropout_attention"),
        ({"combine": "gate"}, "'concat', 'add' or 'stack'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("spade", d_input=3, backbone_config=knobs)
