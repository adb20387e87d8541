"""The S5 layer against a plain dense recurrence, the sizes of the published model, and the start of its parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ssm_core import build_model
from ssm_core.backbones.s5 import layer as s5_layer
from ssm_core.backbones.s5.layer import S5, draw_c, lecun_normal
from ssm_core.backbones.s5.spec import S5Config
from ssm_core.hippo import hippo_eigenbasis
from ssm_core.plugin.errors import ConfigError

PENDULUM = {"state_size": 16, "blocks": 8, "dt_min": 0.01, "dt_max": 0.1, "c_init": "trunc_standard_normal"}


def layer(width: int = 3, causal: bool = True, **knobs: Any) -> S5:
    torch.manual_seed(0)
    return S5(width, S5Config(**{"state_size": 8, "blocks": 2, **knobs}), causal=causal).double()


def dense(s5: S5, c: torch.Tensor, u: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
    """y_k = Re(C x_k) over all P states, conjugates written out, each step by a matrix exponential or a solve."""
    half = torch.complex(s5.Lambda_re, s5.Lambda_im)
    if s5.config.clip_eigs:
        half = torch.complex(half.real.clamp(max=-1e-4), half.imag)
    b_half, c_half = torch.view_as_complex(s5.B), torch.view_as_complex(c)
    a = torch.diag(torch.cat([half, half.conj()]))
    b = torch.cat([b_half, b_half.conj()])
    c = torch.cat([c_half, c_half.conj()], 1)
    step = torch.cat([s5.log_step, s5.log_step]).exp() * s5.config.step_rescale
    eye = torch.eye(len(a), dtype=a.dtype)
    out = []
    for row in range(len(u)):
        x = torch.zeros(len(a), dtype=a.dtype)
        for u_k, gap in zip(u[row], gaps[row], strict=True):
            delta = torch.diag((step * gap).to(a.dtype))
            if s5.config.discretization == "zoh":
                a_bar = torch.linalg.matrix_exp(delta @ a)
                b_bar = torch.linalg.solve(a, (a_bar - eye) @ b)
            else:
                a_bar = torch.linalg.solve(eye - delta @ a / 2, eye + delta @ a / 2)
                b_bar = torch.linalg.solve(eye - delta @ a / 2, delta @ b)
            x = a_bar @ x + b_bar @ u_k.to(a.dtype)
            out.append((c @ x).real)
    return torch.stack(out).view(u.shape)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize(
    "knobs", [{}, {"clip_eigs": True}, {"step_rescale": 0.5}, {"c_init": "complex_normal"}]
)
def test_it_is_the_dense_recurrence(discretization: str, knobs: dict[str, Any]) -> None:
    s5 = layer(discretization=discretization, **knobs)
    with torch.no_grad():
        s5.Lambda_re[0] = 0.02  # an unstable mode, which only clip_eigs tames
    u, gaps = torch.randn(2, 7, 3, dtype=torch.float64), 0.2 + 3 * torch.rand(2, 7, dtype=torch.float64)
    y, _ = s5(u, dt_bl=gaps)
    torch.testing.assert_close(y, dense(s5, s5.C, u, gaps) + s5.D * u, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_backwards_it_is_the_dense_recurrence_of_the_reversed_sequence(discretization: str) -> None:
    s5 = layer(causal=False, discretization=discretization)
    u, v = torch.randn(2, 2, 7, 3, dtype=torch.float64)
    gaps = 0.2 + 3 * torch.rand(2, 7, dtype=torch.float64)
    after = torch.cat([gaps[:, 1:], torch.ones(2, 1, dtype=torch.float64)], 1)
    forwards = dense(s5, s5.C, u, gaps) + s5.D * u
    for other, given in ((u, None), (v, v)):
        back = dense(s5, s5.C_reverse, other.flip(1), after.flip(1)).flip(1)
        y, state = s5(u, dt_bl=gaps, x_reverse_bld=given)
        torch.testing.assert_close(y, forwards + back, rtol=1e-9, atol=1e-9)
        assert state == ()


def test_the_published_layer_has_its_number_of_parameters() -> None:
    s5 = S5(30, S5Config(**PENDULUM))
    assert sum(p.numel() for p in s5.parameters()) == 1014
    model = build_model(
        "s5",
        d_input=30,
        d_model=30,
        n_layers=4,
        model_config={"prenorm": False},
        backbone_config={**PENDULUM, "activation": "half_glu2"},
    )
    assert [sum(p.numel() for p in block.parameters()) for block in model.stack.blocks] == [2004] * 4
    assert not list(model.stack.final_norm.parameters())


def test_the_start_of_the_eigenvalues_and_steps() -> None:
    s5 = S5(30, S5Config(**PENDULUM))
    assert s5.Lambda_re.tolist() == pytest.approx([-0.5] * 8)
    assert s5.Lambda_im.tolist() == pytest.approx([-0.8660254] * 8)
    assert (s5.log_step >= math.log(0.01)).all()
    assert (s5.log_step <= math.log(0.1)).all()
    long = S5(4, S5Config(state_size=2000, blocks=1000, dt_min=0.01, dt_max=0.1))
    assert long.log_step.mean().item() == pytest.approx(math.log(0.1 * 0.01) / 2, abs=0.1)


def test_b_starts_as_a_real_matrix_taken_to_the_eigenbasis() -> None:
    torch.manual_seed(1)
    s5 = S5(200, S5Config(state_size=16, blocks=2)).double()
    one = hippo_eigenbasis(8)[1]
    v = torch.block_diag(one, one)
    # V V* + conj(V V*) = I, since the columns and their conjugates are a basis.
    real = 2 * (v @ torch.view_as_complex(s5.B)).real
    torch.testing.assert_close(v.mH @ real.to(v.dtype), torch.view_as_complex(s5.B), rtol=1e-5, atol=1e-6)
    assert real.var().item() == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize(("kind", "fan_in"), [("trunc_standard_normal", 16), ("lecun_normal", 16 * 200)])
def test_c_starts_with_the_variance_of_its_name(kind: str, fan_in: int) -> None:
    torch.manual_seed(1)
    identity = torch.eye(16, dtype=torch.complex128)
    c = draw_c(kind, 200, 16, identity)
    assert c.real.var().item() == pytest.approx(1 / fan_in, rel=0.1)
    assert c.imag.var().item() == pytest.approx(1 / fan_in, rel=0.1)


def test_c_may_start_in_the_eigenbasis() -> None:
    torch.manual_seed(1)
    c = draw_c("complex_normal", 400, 16, torch.zeros(16, 8, dtype=torch.complex128))
    assert c.shape == (400, 8)
    assert c.abs().square().mean().item() == pytest.approx(1.0, rel=0.1)


def test_the_truncated_normal_has_its_variance_and_no_tails() -> None:
    torch.manual_seed(1)
    drawn = lecun_normal((300, 300), fan_in=4)
    assert drawn.var().item() == pytest.approx(0.25, rel=0.02)
    assert drawn.abs().max().item() <= 2 * 0.5 / 0.8796


def test_a_reset_of_parameters_is_a_fresh_draw_of_the_seed() -> None:
    first = layer()
    torch.manual_seed(0)
    second = S5(3, first.config)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    torch.manual_seed(0)
    second.reset_parameters()
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())


def test_gaps_split_under_a_held_input_lead_to_the_same_state() -> None:
    """Zero-order hold is a semigroup: time passed under one input may be cut anywhere."""
    s5 = layer()
    u = torch.randn(2, 1, 3, dtype=torch.float64)
    _, once = s5(u, dt_bl=torch.full((2, 1), 2.0, dtype=torch.float64))
    parts = torch.tensor([[0.3, 0.0, 1.5, 0.2]] * 2, dtype=torch.float64)
    _, often = s5(u.expand(2, 4, 3), dt_bl=parts)
    torch.testing.assert_close(often["x"], once["x"], rtol=1e-12, atol=1e-12)


PADS = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
HOLES = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]
RESETS = [[0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("reset", [None, RESETS], ids=["whole", "resets"])
@pytest.mark.parametrize("mask", [PADS, HOLES], ids=["padding", "holes"])
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_equal_gaps_under_a_mask_give_what_gaps_of_one_give(causal, carried, mask, reset) -> None:
    """Without gaps it may convolve with constant factors; gaps of 1 that are written out take the other path."""
    if carried and not causal:
        pytest.skip("a bidirectional layer carries no state")
    s5, valid = layer(causal=causal), torch.tensor(mask).bool()
    x = torch.randn(3, 6, 3, dtype=torch.float64)
    given = {"mask_bl": valid, "reset_bl": None if reset is None else torch.tensor(reset).bool()}
    if carried:
        with torch.no_grad():
            _, given["state"] = s5(torch.randn_like(x), mask_bl=torch.ones(3, 6, dtype=torch.bool))
    ones, found = torch.ones(3, 6, dtype=torch.float64), []
    for dt in (None, ones):
        s5.zero_grad()
        u = x.clone().requires_grad_()
        y, state = s5(u.masked_fill(~valid[..., None], torch.nan), dt_bl=dt, **given)
        tree = [state[name] for name in sorted(state)] if causal else []
        (y.square() * valid[..., None]).sum().add(sum(t.abs().square().sum() for t in tree)).backward()
        grads = [p.grad for p in s5.parameters()]
        found.append([y * valid[..., None], *tree, u.grad, *grads])
    for equal, written in zip(*found, strict=True):
        torch.testing.assert_close(equal, written, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_a_mask_that_only_pads_needs_no_gap_for_every_step(causal, monkeypatch) -> None:
    """Factors for every step take several times as long."""
    dims: list[int] = []

    def spy(name: str) -> None:
        real = getattr(s5_layer, name)

        def seen(first: Any, dt: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            dims.append(dt.ndim)
            return real(first, dt, *args, **kwargs)

        monkeypatch.setattr(s5_layer, name, seen)

    spy("diagonal_ssm")
    spy("discretize")
    s5, x = layer(causal=causal), torch.randn(3, 6, 3, dtype=torch.float64)
    for mask, wanted in ((PADS, 1), (HOLES, 3)):
        dims.clear()
        s5(x, mask_bl=torch.tensor(mask).bool())
        assert set(dims) == {wanted}


def test_what_it_does_not_take_is_refused() -> None:
    s5, both = layer(), layer(causal=False)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no side inputs, but got \['B'\]"):
        s5(x, side={"B": x})
    with pytest.raises(ValueError, match="x_reverse_bld needs a bidirectional s5"):
        s5(x, x_reverse_bld=x)
    with pytest.raises(ValueError, match="carries no state"):
        both(x, state=s5.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        both.step(x[:, 0], state=())
    with pytest.raises(ValueError, match=r"reset_bl is \(B, L\) = \(2, 4\)"):
        s5(x, reset_bl=torch.zeros(2, 1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"state_size": 7}, "state_size 7 must be a multiple of 2"),
        ({"state_size": 12, "blocks": 4}, "multiple of 2 . blocks = 8"),
        ({"blocks": 0}, "multiple"),
        ({"dt_min": 0.0}, "0 < dt_min"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"lr_scale": 0.0}, "above 0"),
        ({"discretization": "euler"}, "'zoh' or 'bilinear'"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("s5", d_input=3, backbone_config=knobs)


def test_the_state_of_an_empty_sequence_is_the_one_given() -> None:
    s5 = layer()
    _, state = s5(torch.randn(2, 5, 3, dtype=torch.float64))
    y, after = s5(torch.randn(2, 0, 3, dtype=torch.float64), state=state)
    assert y.shape == (2, 0, 3)
    assert torch.equal(after["x"], state["x"])


@pytest.mark.parametrize(
    ("knobs", "slow", "fixed"),
    [
        ({}, {"Lambda_re", "Lambda_im", "B", "log_step"}, {"Lambda_re", "Lambda_im", "B", "log_step"}),
        ({"dt_global": True}, {"Lambda_re", "Lambda_im", "B"}, {"Lambda_re", "Lambda_im", "B"}),
        (
            {"opt_config": "BandCdecay"},
            {"Lambda_re", "Lambda_im", "B", "log_step"},
            {"Lambda_re", "Lambda_im", "log_step"},
        ),
        (
            {"opt_config": "BfastandCdecay"},
            {"Lambda_re", "Lambda_im", "log_step"},
            {"Lambda_re", "Lambda_im", "log_step"},
        ),
        (
            {"opt_config": "noBCdecay", "dt_global": True},
            {"Lambda_re", "Lambda_im", "B", "C", "C_reverse", "D"},
            {"Lambda_re", "Lambda_im", "B", "C", "C_reverse", "D"},
        ),
    ],
)
def test_groups_are_those_of_the_original_code(
    knobs: dict[str, Any], slow: set[str], fixed: set[str]
) -> None:
    hints = layer(causal=False, lr_scale=0.5, **knobs).param_hints()
    assert {name for name, hint in hints.items() if hint.lr_scale == 0.5} == slow
    assert {name for name, hint in hints.items() if hint.weight_decay == 0.0} == fixed
    assert all(hint.lr_scale in (0.5, 1.0) and hint.dtype == torch.float32 for hint in hints.values())
