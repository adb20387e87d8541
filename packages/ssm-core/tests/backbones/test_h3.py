"""H3: the contract, and its two state-space models beside loops over time with their matrices written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssm_core import build_model
from ssm_core.attention import Attention
from ssm_core.backbones.h3.layer import H3, build
from ssm_core.backbones.h3.spec import H3Config
from ssm_core.backbones.h3.systems import DiagonalSSM, Shift
from ssm_core.params import gather_hints
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo
from ssm_core.testing import MixerSuite

QUICK = {"state_size": 4, "dt_min": 0.05, "dt_max": 0.5}
HEADS = QUICK | {"head_dim": 2, "start": "legs", "discretization": "zoh"}
HYBRID = QUICK | {"attention_layers": "0", "heads": 1, "rotary": True}
F64 = torch.float64


class TestBlock(MixerSuite):
    backbone = "h3"
    config = QUICK
    widths = (1, 4)
    causal_tolerance = 1e-6  # the diagonal model is a convolution by FFT


@pytest.mark.slow
class TestHeads(TestBlock):
    config = HEADS
    widths = (2, 4)


@pytest.mark.slow
class TestMixer(TestHeads):
    part = "mixer"


@pytest.mark.slow
class TestDiagonal(TestBlock):
    part = "ssm"


@pytest.mark.slow
class TestHybrid(TestBlock):
    config = HYBRID


def h3(width: int = 6, **knobs: Any) -> Any:
    torch.manual_seed(0)
    config = H3Config(**(QUICK | knobs))
    layer = H3(width, config, lambda name, make, inner: make(inner)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def shifted(shift: Shift, u: torch.Tensor) -> torch.Tensor:
    """One row (L, H) by the shift matrix."""
    n = shift.C.shape[1]
    down = torch.diag(torch.ones(n - 1, dtype=F64), -1)
    x, out = torch.zeros(u.shape[1], n, dtype=F64), []
    for u_t in u:
        x = x @ down.T + shift.B * u_t[:, None]
        out.append((shift.C * x).sum(1) + shift.D * u_t)
    return torch.stack(out)


def diagonal(ssm: DiagonalSSM, u: torch.Tensor) -> torch.Tensor:
    """One row (L, copies H), both of each conjugate pair written out, each step by a matrix exponential or a solve."""
    half = torch.complex(-ssm.A_real.exp(), ssm.A_imag)
    b_half, c_half = torch.view_as_complex(ssm.B), torch.view_as_complex(ssm.C)
    out = torch.zeros_like(u)
    systems = len(ssm.D)
    for channel in range(u.shape[1]):
        h = channel % systems
        a = torch.diag(torch.cat([half[h], half[h].conj()])) * ssm.log_dt[h].exp()
        b = torch.cat([b_half[h], b_half[h].conj()]) * ssm.log_dt[h].exp()
        c = torch.cat([c_half[h], c_half[h].conj()])
        eye = torch.eye(len(a), dtype=a.dtype)
        if ssm.config.discretization == "bilinear":
            a_bar, b_bar = torch.linalg.solve(eye - a / 2, eye + a / 2), torch.linalg.solve(eye - a / 2, b)
        else:
            a_bar = torch.linalg.matrix_exp(a)
            b_bar = torch.linalg.solve(a, (a_bar - eye) @ b)
        x = torch.zeros(len(a), dtype=a.dtype)
        for t in range(len(u)):
            x = a_bar @ x + b_bar * u[t, channel]
            out[t, channel] = (c @ x).real + ssm.D[h] * u[t, channel]
    return out


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_shift_is_its_matrix(n: int) -> None:
    torch.manual_seed(0)
    shift = Shift(3, n).double()
    with torch.no_grad():
        shift.B.normal_()
    u = torch.randn(2, 7, 3, dtype=F64)
    y, state = shift(u, mask_bl=None, reset_bl=None, state=None)
    for row in range(2):
        torch.testing.assert_close(y[row], shifted(shift, u[row]), rtol=1e-12, atol=1e-12)
    assert state["u"].shape == (2, n - 1, 3)


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
@pytest.mark.parametrize(("width", "copies"), [(3, 1), (8, 4)])
def test_the_diagonal_model_is_its_matrices(discretization: str, width: int, copies: int) -> None:
    torch.manual_seed(0)
    ssm = DiagonalSSM(width, H3Config(**QUICK, discretization=discretization), copies).double()
    u = torch.randn(2, 9, width, dtype=F64)
    y, _ = ssm(u)
    for row in range(2):
        torch.testing.assert_close(y[row], diagonal(ssm, u[row]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("e", [1, 2, 3])
def test_it_is_the_two_models_between_products(e: int) -> None:
    layer = h3(head_dim=e)
    x = torch.randn(2, 7, 6, dtype=F64)
    y, _ = layer(x)
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(6, -1)
    for row in range(2):
        keys = shifted(layer.shift, k[row])
        heads = 6 // e
        kv = torch.zeros(7, e * e * heads, dtype=F64)
        for i in range(e):
            for j in range(e):
                for h in range(heads):
                    kv[:, (i * e + j) * heads + h] = keys[:, h * e + i] * v[row, :, h * e + j]
        held = diagonal(layer.ssm, kv)
        read = torch.zeros(7, 6, dtype=F64)
        for j in range(e):
            for h in range(heads):
                read[:, j * heads + h] = sum(
                    q[row, :, h * e + i] * held[:, (i * e + j) * heads + h] for i in range(e)
                )
        torch.testing.assert_close(y[row], layer.out(read), rtol=1e-9, atol=1e-9)


def test_at_its_start_the_filter_of_the_shift_is_c() -> None:
    shift = Shift(5, 4)
    expected = shift.C.clone()
    expected[:, 0] += shift.D
    torch.testing.assert_close(shift.taps().flip(1), expected)
    assert shift.C.abs().max().item() <= 0.5


def test_the_starts() -> None:
    torch.manual_seed(0)
    block: Any = build(H3Config(), info(256, n_layers=8), lambda name, make, width: make(width))
    mixer = block.mixer
    assert mixer.ssm.A_real.exp().flatten().tolist() == pytest.approx([0.5] * 256 * 32)
    assert mixer.ssm.A_imag[3].abs().tolist() == pytest.approx([math.pi * n for n in range(32)])
    assert torch.view_as_complex(mixer.ssm.B.detach()).eq(1).all()
    assert mixer.ssm.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.05)
    assert mixer.ssm.D.std().item() == pytest.approx(1, rel=0.2)
    assert mixer.ssm.log_dt.min().item() >= math.log(1e-3)
    assert mixer.ssm.log_dt.max().item() <= math.log(1e-1)
    for weight, std in (
        (mixer.qkv.weight, 0.02),
        (mixer.out.weight, 0.005),
        (block.then.up.weight, 0.02),
        (block.then.down.weight, 0.005),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert not any(linear.bias.any() for linear in (mixer.qkv, mixer.out, block.then.up, block.then.down))


def info(width: int, *, index: int = 0, n_layers: int = 1, **rest: Any) -> LayerInfo:
    return LayerInfo(index=index, n_layers=n_layers, d_model=width, **rest)


def test_a_block_has_its_number_of_parameters() -> None:
    """The 125M model: width 768, 64 states, a head of each channel's own, or heads of 8."""
    d, n = 768, 64
    maps = 4 * (d * d + d) + d * 4 * d + 4 * d + 4 * d * d + d + 2 * 2 * d
    for e in (1, 8):
        block = build(H3Config(head_dim=e), info(d, n_layers=12), lambda name, make, width: make(width))
        shift = 2 * d * n + d
        system = 2 * n // 2 + 2 * n // 2 * 2 + 2  # A; B and C as pairs of reals; D and the step
        assert sum(p.numel() for p in block.parameters()) == maps + shift + (d // e) * system


def test_the_block_has_a_feed_forward_half_without_dropout_inside() -> None:
    block: Any = build(H3Config(), info(8, dropout=0.3), lambda name, make, width: make(width))
    assert block.then.up.out_features == 32
    assert (block.then.dropout.rate, block.then.hidden_dropout.rate) == (0.3, 0.0)
    x = torch.randn(2, 5, 8)
    block.eval()
    h = x + block.mixer(block.norm(x))[0]
    inner = F.gelu(block.then.up(block.then.norm(h)), approximate="tanh")
    torch.testing.assert_close(block(x)[0], h + block.then.down(inner))


def test_hints_are_those_of_the_original() -> None:
    block = build(H3Config(lr_scale=0.1), info(8), lambda name, make, width: make(width))
    hints = {name.removeprefix("mixer."): hint for name, hint in gather_hints(block).items()}
    slow = {name for name, hint in hints.items() if hint.lr_scale == 0.1}
    assert slow == {f"ssm.{name}" for name in ("A_real", "A_imag", "B", "log_dt")}
    assert all(hints[name].weight_decay == 0 for name in (*slow, "shift.B"))
    wide = {name for name, hint in hints.items() if hint.dtype is torch.float32}
    assert wide == slow | {"ssm.C", "ssm.D", "shift.B", "shift.C", "shift.D"}
    assert hints["shift.C"].weight_decay is None


def test_a_hybrid_attends_in_the_layers_named() -> None:
    model: Any = build_model(
        "h3", vocab=10, d_model=16, n_layers=4, backbone_config={"attention_layers": "1,-1", "heads": 2}
    )
    kinds = [type(block.mixer) for block in model.stack.blocks]
    assert kinds == [H3, Attention, H3, Attention]
    out = model.stack.blocks[1].mixer
    assert (out.heads, out.rotary_base) == (2, None)
    tokens = torch.randint(10, (2, 9))
    whole, _ = model(tokens)
    state, parts = model.init_state(2), []
    for t in range(9):
        y, state = model.step(tokens[:, t], state=state)
        parts.append(y)
    torch.testing.assert_close(torch.stack(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_the_slots_hold_the_diagonal_model_and_the_whole() -> None:
    held: dict[str, nn.Module] = {}

    def slot(name: str, make: Any, width: int) -> Any:
        held[name] = make(width)
        return held[name]

    build(H3Config(head_dim=2), info(8), slot)
    assert isinstance(held["ssm"], DiagonalSSM)
    assert held["ssm"].d_model == 16
    assert isinstance(held["mixer"], H3)
    held.clear()
    build(H3Config(attention_layers="*"), info(8), slot)
    assert held.keys() == {"mixer"}


def test_what_it_does_not_take_is_refused() -> None:
    layer = h3()
    x = torch.randn(2, 4, 6, dtype=F64)
    gaps = torch.ones(2, 4, dtype=F64)
    for part in (layer, layer.ssm):
        with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
            part(x, side={"B": x})
        with pytest.raises(ValueError, match=r"takes no gaps \(dt_bl\): --set task\.time"):
            part(x, dt_bl=gaps)
        with pytest.raises(ValueError, match="takes no gaps"):
            part.step(x[:, 0], dt_b=gaps[:, 0], state=part.init_state(2))
    with pytest.raises(ValueError, match="head_dim = 4 has to divide the width, 6"):
        h3(head_dim=4)
    with pytest.raises(ValueError, match="= 4 has to divide the width of the diagonal model, 6"):
        DiagonalSSM(6, H3Config(), copies=4)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 3}, "state_size 3 must be even"),
        ({"head_dim": 0}, "head_dim must be at least 1"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"lr_scale": 0.0}, "lr_scale must be above 0"),
        ({"attention_dropout": 1.0}, r"in \[0, 1\)"),
        ({"attention_layers": "9"}, "selects none of the 4 layers"),
        ({"start": "real"}, "'lin', 'inv' or 'legs'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("h3", d_input=3, backbone_config=knobs)


def test_there_is_no_bidirectional_form() -> None:
    with pytest.raises(ConfigError, match="no bidirectional form"):
        build_model("h3", d_input=3, causal=False)
