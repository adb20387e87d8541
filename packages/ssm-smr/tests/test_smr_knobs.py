"""Every form of the gate against a loop over one sequence's elements, and what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssm_core import build_model
from ssm_core.both_ways import BothWays
from ssm_core.model import build_for_task
from ssm_core.params import gather_hints
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError
from ssm_core.protocols import LayerInfo, Needs, Task
from ssm_core.run.config import RunConfig
from ssm_core.testing import TinyMixer
from ssm_smr.gate import Gate
from ssm_smr.layer import GAP_FLOOR, SMR
from ssm_smr.spec import SMRConfig


class Through(nn.Module):
    """Hands back its input, or what it is given for the reverse direction beside it: u' becomes visible."""

    takes_dt = True

    def __init__(self, d_model: int, causal: bool = True, side_widths: dict[str, int] | None = None) -> None:
        super().__init__()
        self.d_model, self.causal, self.streaming = d_model, causal, causal
        if side_widths is not None:
            self.side_widths = side_widths

    def init_state(self, batch_size: int, **_: Any) -> tuple[()]:
        return ()

    def forward(self, x_bld: Tensor, *, x_reverse_bld: Tensor | None = None, **_: Any) -> Any:
        return x_bld if x_reverse_bld is None else torch.stack([x_bld, x_reverse_bld]), ()

    def step(self, x_bd: Tensor, **_: Any) -> Any:
        return x_bd, ()


def one_way(gate: Gate, u: Tensor, gaps: Tensor) -> Tensor:
    """u' of one sequence (L, H), element by element: the equation, with plain sums."""
    out = []
    for k in range(len(u)):
        z = torch.zeros_like(u[0]) if gate.bias is None else gate.bias
        for i in range(min(gate.config.tau, k + 1)):
            w, past = gate.weight[..., -1 - i], u[k - i]
            z = z + (w @ past if w.ndim == 2 else w * past)
            if gate.gap_weight is not None:
                z = z + gate.gap_weight[:, -1 - i] * gaps[k - i].clamp(min=GAP_FLOOR).log()
        if gate.pointwise is not None:
            z = gate.pointwise.weight @ z + (0 if gate.pointwise.bias is None else gate.pointwise.bias)
        out.append(z if gate.config.gate == "none" else gate.config.scale * torch.sigmoid(z) * u[k])
    return torch.stack(out)


def sequences(length: int, mask: Tensor | None, reset: Tensor | None) -> list[list[int]]:
    """Places of the valid elements of each sequence of a row."""
    found: list[list[int]] = [[]]
    for time in range(length):
        if reset is not None and reset[time]:
            found.append([])
        if mask is None or mask[time]:
            found[-1].append(time)
    return [places for places in found if places]


def by_loop(smr: SMR, u: Tensor, dt: Tensor, mask: Tensor | None, reset: Tensor | None) -> list[Tensor]:
    """u' of a row (L, H), and that of the reverse direction: zero where masked."""
    there, back = torch.zeros_like(u), torch.zeros_like(u)
    for places in sequences(len(u), mask, reset):
        begin = 0 if reset is None else max([t for t in range(places[0] + 1) if reset[t]], default=0)
        starts = [begin, *(place + 1 for place in places[:-1])]
        gaps = torch.stack([dt[a : b + 1].sum() for a, b in zip(starts, places, strict=True)])
        there[places] = one_way(smr, u[places], gaps)
        if smr.reverse is not None:
            after = torch.cat([gaps[1:], torch.ones_like(gaps[:1])])
            back[places] = one_way(smr.reverse, u[places].flip(0), after.flip(0)).flip(0)
    return [there] if smr.reverse is None else [there, back]


@st.composite
def layers(draw: Any, causal: bool | None = None) -> SMR:
    """A gate of any form with drawn weights, in float64."""
    ungated, causal = draw(st.booleans()), draw(st.booleans()) if causal is None else causal
    config = SMRConfig(
        tau=draw(st.integers(1, 5)),
        mode=draw(st.sampled_from(("dense", "depthwise"))),
        bias=draw(st.booleans()),
        pointwise=draw(st.booleans()),
        gap=draw(st.booleans()),
        gate="none" if ungated else "sigmoid",
        gate_scale=None if ungated else draw(st.sampled_from((None, 1.7))),
        reverse="shared" if causal else "mirrored",
    )
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return SMR(Through(draw(st.integers(1, 4)), causal), config).double()


@given(
    layers(), st.integers(1, 9), st.booleans(), st.sampled_from(("none", "holes", "padding")), st.booleans()
)
def test_every_form_is_its_equation(smr: SMR, length: int, with_dt: bool, masked: str, resets: bool) -> None:
    u = torch.randn(2, length, smr.d_model, dtype=torch.float64)
    dt = torch.rand(2, length, dtype=torch.float64) * 2 if with_dt else None
    holes, ends = torch.rand(2, length) < 0.6, torch.arange(length) < torch.randint(0, length + 1, (2, 1))
    mask = {"none": None, "holes": holes, "padding": ends}[masked]
    reset = torch.rand(2, length) < 0.3 if resets else None
    poisoned = u if mask is None else u.masked_fill(~mask[..., None], torch.nan)
    y, _ = smr(poisoned, dt_bl=dt, mask_bl=mask, reset_bl=reset)
    found = y if y.ndim == 4 else y[None]
    given_dt = torch.ones(2, length, dtype=torch.float64) if dt is None else dt
    for row in range(2):
        of_row = (None if each is None else each[row] for each in (mask, reset))
        expected = torch.stack(by_loop(smr, u[row], given_dt[row], *of_row))
        counts = slice(None) if mask is None else mask[row]
        torch.testing.assert_close(found[:, row, counts], expected[:, counts], rtol=1e-12, atol=1e-12)
    assert found.isfinite().all()


@given(layers(causal=True), st.integers(1, 9), st.data())
def test_pieces_and_steps_are_the_whole(smr: SMR, length: int, data: Any) -> None:
    u = torch.randn(2, length, smr.d_model, dtype=torch.float64)
    dt = torch.rand(2, length, dtype=torch.float64) * 2 if data.draw(st.booleans()) else None
    mask = torch.rand(2, length) < 0.6
    cut = data.draw(st.integers(0, length))
    twice = torch.cat([mask, torch.ones_like(mask)], 1)
    gaps = {} if dt is None else {"dt_bl": torch.cat([dt, dt], 1)}
    whole, _ = smr(torch.cat([u, u], 1), mask_bl=twice, **gaps)
    out, state = [], smr.init_state(2)
    for piece in (slice(0, cut), slice(cut, length)):
        gaps = {} if dt is None else {"dt_bl": dt[:, piece]}
        y, state = smr(u[:, piece], mask_bl=mask[:, piece], state=state, **gaps)
        out.append(y)
    for time in range(length):
        y, state = smr.step(u[:, time], dt_b=None if dt is None else dt[:, time], state=state)
        out.append(y[:, None])
    torch.testing.assert_close(torch.cat(out, 1)[twice], whole[twice], rtol=1e-12, atol=1e-12)


@given(layers(causal=True), st.integers(1, 9), st.floats(1e-3, 10.0))
def test_disturbed_inputs_move_the_output_no_more_than_the_bound(smr: SMR, length: int, size: float) -> None:
    """|du'| <= s (|d_k| + |u_k| / 4 |P| sum_i |W_i| |d_(k-i)|); without the gate, |P| sum_i |W_i| |d_(k-i)|."""
    u, delta = torch.randn(2, 2, length, smr.d_model, dtype=torch.float64).unbind()
    delta = size * delta
    moved = (smr(u + delta)[0] - smr(u)[0]).abs()
    reach = torch.zeros_like(u)
    for i in range(min(smr.config.tau, length)):
        past = nn.functional.pad(delta.abs(), (0, 0, i, 0))[:, :length]
        w = smr.weight[..., -1 - i].abs()
        reach = reach + (past @ w.T if w.ndim == 2 else past * w)
    if smr.pointwise is not None:
        reach = reach @ smr.pointwise.weight.abs().T
    bound = reach if smr.config.gate == "none" else smr.config.scale * (delta.abs() + u.abs() * reach / 4)
    assert (moved <= bound * (1 + 1e-12) + 1e-12).all()


@given(layers(causal=True), st.integers(1, 9))
def test_only_a_gate_bounds_the_gain(smr: SMR, length: int) -> None:
    u = 100 * torch.randn(2, length, smr.d_model, dtype=torch.float64)
    y, _ = smr(u)
    if smr.config.gate == "sigmoid":
        assert (y.abs() <= smr.config.scale * u.abs()).all()
        assert (y * u >= 0).all(), "the sign is kept"
    else:
        linear = smr(2 * u)[0] - 2 * y
        torch.testing.assert_close(linear, -smr(torch.zeros_like(u))[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["dense", "depthwise"])
@pytest.mark.parametrize("knobs", [{}, {"pointwise": True}, {"gap": True}, {"gate": "none"},
                                   {"gate": "none", "pointwise": True}])  # fmt: skip
def test_the_identity_changes_no_bit(dtype: torch.dtype, mode: Any, knobs: Any) -> None:
    torch.manual_seed(0)
    smr = SMR(Through(5), SMRConfig(mode=mode, init="identity", **knobs)).to(dtype)
    u, dt = torch.randn(2, 11, 5).to(dtype), 3 * torch.rand(2, 11)
    mask, reset = torch.rand(2, 11) < 0.7, torch.rand(2, 11) < 0.2
    assert torch.equal(smr(u, dt_bl=dt)[0], u)
    assert torch.equal(smr(u, dt_bl=dt, mask_bl=mask, reset_bl=reset)[0][mask], u[mask])


@pytest.mark.parametrize("knobs", [{}, {"pointwise": True}, {"gap": True}])
def test_an_open_start_is_open(knobs: Any) -> None:
    smr = SMR(Through(3), SMRConfig(init="open", **knobs))
    u = torch.randn(2, 7, 3)
    torch.testing.assert_close(smr(u)[0], u * torch.sigmoid(torch.tensor(3.0)))


@pytest.mark.parametrize("mode", ["dense", "depthwise"])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_counted(mode: Any, bias: bool) -> None:
    """A pointwise map adds H^2 + H, gaps H tau; a mirrored gate all of it again."""
    h, tau = 5, 3
    config = SMRConfig(mode=mode, bias=bias, tau=tau, pointwise=True, gap=True, reverse="mirrored")
    smr = SMR(BothWays(TinyMixer(h), TinyMixer(h)), config)
    own = sum(p.numel() for p in smr.parameters()) - sum(p.numel() for p in smr.inner.parameters())
    one = (h * h if mode == "dense" else h) * tau + h * tau + h * h + (2 * h if bias else 0)
    assert own == 2 * one
    assert {name for name, hint in gather_hints(smr).items() if hint.weight_decay == 0} >= (
        {"bias", "pointwise.bias", "reverse.bias", "reverse.pointwise.bias"} if bias else set()
    )


@pytest.mark.parametrize("mode", ["dense", "depthwise"])
def test_the_convolution_of_s4_is_its_recurrence_with_the_gate_on(mode: Any) -> None:
    """The gate comes before the kernel, so both forms see the same u'."""
    torch.manual_seed(0)
    knobs = [{"mode": mode, "tau": 4}]
    model = build_model("s4", ["smr"], d_input=2, d_model=8, n_layers=2, addon_configs=knobs).double().eval()
    x = torch.randn(2, 40, 2, dtype=torch.float64)
    whole, _ = model(x)
    out, state = [], model.init_state(2, dtype=torch.float64)
    for time in range(40):
        y, state = model.step(x[:, time], state=state)
        out.append(y)
    torch.testing.assert_close(torch.stack(out, 1), whole, rtol=1e-8, atol=1e-8)


def test_side_widths_are_those_of_the_inner_mixer() -> None:
    assert SMR(Through(2), SMRConfig()).side_widths == {}
    assert SMR(Through(2, side_widths={"B": 3}), SMRConfig()).side_widths == {"B": 3}
    both = BothWays(*(SMR(Through(2, side_widths={"B": 3}), SMRConfig()) for _ in range(2)))
    assert both.side_widths == {"B": 3}


def test_each_direction_of_a_mixer_in_two_parts_has_its_own_gate() -> None:
    """S6 runs one recurrence a direction, each gated from its own start, so that there is nothing to mirror."""
    found = build_model("s6", ["smr"], d_input=2, d_model=8, n_layers=1, causal=False,
                        addon_configs=[{"reverse": "mirrored", "mode": "depthwise"}])  # fmt: skip
    gates = [part for part in found.modules() if isinstance(part, SMR)]
    assert len(gates) == 2
    assert all(gate.reverse is None for gate in gates)


@pytest.mark.parametrize("backbone", ["s4", "s4d", "dss", "s5", "lru"])
def test_a_mirrored_gate_reaches_the_reverse_direction_only(backbone: str) -> None:
    torch.manual_seed(0)
    knobs = [{"reverse": "mirrored", "tau": 2}]
    model = build_model(
        backbone, ["smr"], d_input=2, d_model=6, n_layers=1, causal=False, addon_configs=knobs
    )
    smr = next(part for part in model.modules() if isinstance(part, SMR))
    assert smr.reverse is not None
    x = torch.randn(1, 9, 6)
    before = smr(x)[0]
    with torch.no_grad():
        smr.reverse.bias += 1.0
    assert (smr(x)[0] - before).abs().amax() > 1e-4
    with torch.no_grad():
        smr.reverse.bias.fill_(-1e4)
        smr.reverse.weight.zero_()
    gradient = torch.autograd.grad(smr(x.requires_grad_())[0][0, 3].sum(), x)[0]
    assert gradient[0, :4].any()
    assert gradient[0, 4:].abs().max() <= 1e-6, "a closed reverse gate lets nothing of the future through"


@pytest.mark.parametrize(
    ("knobs", "mixer", "message"),
    [
        ({"gap": True}, TinyMixer(3, takes_dt=False), r"TinyMixer takes none\n.*addons\.smr\.gap=false"),
        ({"reverse": "mirrored"}, TinyMixer(3), r"this one is causal\n.*model\.causal=false"),
        (
            {"reverse": "mirrored"},
            TinyMixer(3, causal=False),
            r"TinyMixer takes none\n.*addons\.smr\.reverse=shared",
        ),
    ],
)
def test_what_the_inner_mixer_cannot_give_is_refused_at_build(knobs: Any, mixer: Any, message: str) -> None:
    _, build = registry.builder("addon", "smr")
    layer = LayerInfo(index=0, n_layers=1, d_model=3, causal=mixer.causal)
    with pytest.raises(ConfigError, match=message):
        build(SMRConfig(**knobs))(lambda _: mixer, 3, layer)


def test_gaps_that_never_arrive_are_refused_at_build() -> None:
    with pytest.raises(ConfigError, match=r"S4 takes none\n.*addons\.smr\.gap=false"):
        build_model("s4", ["smr"], d_input=2, d_model=4, addon_configs=[{"gap": True}])
    # SPADE's attention keeps gaps from the state-space branch, which could take them.
    with pytest.raises(ConfigError, match=r"spade takes none\n.*addons\.smr\.gap=false"):
        build_model("spade", ["smr"], d_input=2, d_model=8, addon_configs=[{"gap": True}],
                    backbone_config={"global_branch": "s4d"})  # fmt: skip


class NoGaps(Task):
    """Gives no gaps."""

    def encoder(self, d_model: int) -> nn.Module:
        return nn.Identity()

    def head(self, d_model: int) -> nn.Module:
        return nn.Identity()


def test_a_task_without_gaps_is_told() -> None:
    knobs = {
        "backbone": {"name": "s5", "state_size": 4},
        "addons": {"smr": {"gap": True}},
        "model": {"d_model": 4},
    }
    config, task = RunConfig.from_tree(knobs), NoGaps()
    with pytest.raises(ConfigError, match=r"the task gives none\n.*task\.time=true.*addons\.smr\.gap=false"):
        build_for_task(config, task)
    task.needs = Needs(dt=True)
    assert build_for_task(config, task).stack.takes_dt


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tau": 0}, "tau must be at least 1"),
        ({"gate_scale": 0.0}, "above 0"),
        ({"init": "open", "bias": False}, "needs bias = true"),
        ({"init": "identity", "gate_scale": 1.0}, "needs gate_scale = 2"),
        ({"gate": "none", "init": "open"}, "take default or identity"),
        ({"gate": "none", "gate_scale": 2.0}, "leave it out with gate = none"),
        ({"gate": "relu"}, "sigmoid"),
        ({"reverse": "both"}, "shared"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(knobs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.configure("addon", "smr", knobs)


def test_a_wide_dense_gate_says_what_it_costs() -> None:
    with pytest.warns(UserWarning, match=r"width 300 has 360,300 parameters a layer; .*depthwise has 1,500"):
        SMR(Through(300), SMRConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SMR(Through(300), SMRConfig(mode="depthwise"))
        SMR(Through(256), SMRConfig())


@pytest.mark.parametrize("ways", ["shared", "mirrored"])
@pytest.mark.parametrize("knobs", [{}, {"bias": False}, {"pointwise": True}, {"gap": True, "gate": "none"},
                                   {"pointwise": True, "gap": True, "bias": False}])  # fmt: skip
def test_the_warning_counts_what_is_there(ways: Any, knobs: Any) -> None:
    """The dense gate's parameters and the depthwise one's are those that the two really have."""
    width, causal, said = 260, ways == "shared", []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for mode in ("dense", "depthwise"):
            smr = SMR(Through(width, causal), SMRConfig(mode=mode, tau=2, reverse=ways, **knobs))
            said.append(sum(p.numel() for p in smr.parameters()))
    (warning,) = caught
    assert f"has {said[0]:,} parameters a layer;" in str(warning.message)
    assert str(warning.message).endswith(f"addons.smr.mode=depthwise has {said[1]:,}")
    assert warning.filename == __file__
