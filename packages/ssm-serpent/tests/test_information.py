from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guessing import LENGTH, MAMBA2, S6, SERPENT, LanguageHead, Rows, model_of, subject
from torch import Tensor
from torch.nn import functional as F

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch
from ssm_serpent.information.calls import Call, answering_less, first_calls
from ssm_serpent.information.measure import probe
from ssm_serpent.information.outputs import Said, divergence, said
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.subjects import Recurrence, Resampler


def s6_loop(one: Any, without: int, definition: str) -> Tensor:
    """The last state of S6 on a sequence without an element, by a loop over what S6 selects; Euler's rule."""
    s6, x = one.copy.mixer, one.copy.x_bld
    low, B, _ = s6.x_proj(x[0]).split([s6.rank, s6.config.state_size, s6.config.state_size], -1)
    dt = F.softplus(s6.dt_proj(low))
    h = torch.zeros(x.shape[2], s6.config.state_size, dtype=torch.float64)
    for time in range(x.shape[1]):
        if time == without and definition == "removed":
            continue
        u = torch.zeros_like(x[0, time]) if time == without else x[0, time]
        h = torch.exp(dt[time][:, None] * -s6.A_log.exp()) * h + (dt[time] * u)[:, None] * B[time]
    return h


@pytest.mark.parametrize("definition", ["removed", "masked"])
def test_the_states_of_a_recurrence_are_those_of_a_loop_without_the_element(definition):
    one = subject("s6", **S6)
    at_p = torch.tensor([0, 3, 7, LENGTH - 1])
    with torch.no_grad():
        whole = s6_loop(one, -1, definition)
        expected = torch.stack([(whole - s6_loop(one, int(n), definition)).norm() for n in at_p])
    torch.testing.assert_close(one.change(definition, at_p).state_p, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("backbone", "knobs"),
    [
        ("s6", S6),
        ("mamba2", MAMBA2),
        ("s6", S6 | SERPENT),
        ("s5", {"state_size": 4, "blocks": 1} | SERPENT),
        ("s5", {"state_size": 4, "blocks": 1, "causal": False} | SERPENT),
    ],
)
def test_removing_is_the_same_as_cutting_the_element_out(backbone, knobs):
    one = subject(backbone, **knobs)
    n, own = 4, one.copy
    change = one.change("removed", torch.tensor([n]))
    kept = [time for time in range(LENGTH) if time != n]
    side = {name: value[:, kept] for name, value in own.side.items()}
    with torch.no_grad():
        whole, _ = own.mixer(own.x_bld, side=own.side or None)
        cut, _ = own.mixer(own.x_bld[:, kept], side=side or None)
    torch.testing.assert_close(whole[0, kept] - change.answer_pld[0, kept], cut[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(change.answer_pld[0, n], whole[0, n])
    if knobs.get("causal", True):
        assert not change.answer_pld[0, :n].any()
        assert change.state_p > 0
    else:
        assert change.state_p.isnan()
    assert change.answer_pld[0, n + 1 :].abs().max() > 1e-6


@pytest.mark.parametrize(("backbone", "knobs"), [("s6", S6), ("mamba2", MAMBA2)])
def test_the_trained_layers_obey_the_proposition(backbone, knobs):
    one = subject(backbone, **knobs)
    at_p = torch.arange(LENGTH)
    for definition in one.definitions:
        large, small = (one.change(definition, at_p, share).state_p for share in (1e-3, 1e-4))
        assert (large > 0).all()
        # Masked under Euler's rule is linear altogether; removed only to first order.
        within = 1e-9 if definition == "masked" else 1e-3
        torch.testing.assert_close(large / small, torch.full_like(large, 10.0), rtol=within, atol=0)


@pytest.mark.parametrize(("backbone", "knobs"), [("s6", S6), ("mamba2", MAMBA2)])
def test_the_bound_is_that_of_the_eigenvalues(backbone, knobs):
    one = subject(backbone, **knobs)
    mixer = one.copy.mixer
    largest = mixer.A_log.exp().reshape(one.by_channel().shape[1], -1).amax(1)
    torch.testing.assert_close(one.bounds(), one.by_channel() * largest / 2)


@pytest.mark.parametrize("rule", ["zoh", "euler"])
@pytest.mark.parametrize("eigenvalues", ["real", "complex"])
def test_a_model_that_holds_its_inputs_keeps_to_the_bound(rule, eigenvalues):
    model = model_of("s6", **S6, discretization=rule, eigenvalues=eigenvalues)
    rows = probe(model, Rows(), InformationConfig(sequences=3, elements=LENGTH)).rows
    used = {row["left out"]: row["share of the bound"] for row in rows}
    if rule == "zoh":
        assert 0.05 < used["removed"] <= 1.0001
        assert 0.05 < used["masked"] <= 1.0001
    else:  # Euler's rule puts in D_n B x, exactly linear
        assert used["masked"] < 1e-6
        assert used["removed"] > 0.05


@pytest.mark.parametrize("kind", [Recurrence, Resampler])
def test_padding_is_not_there(kind):
    knobs = S6 if kind is Recurrence else S6 | SERPENT
    module = subject("s6", **knobs).copy.mixer
    x = torch.randn(1, LENGTH, module.d_model)
    mask = torch.arange(LENGTH)[None] < LENGTH - 3
    padded = kind(module, Call(x.masked_fill(~mask[..., None], torch.nan), None, mask, {}))
    alone = kind(module, Call(x[:, : LENGTH - 3], None, None, {}))
    assert padded.places.tolist() == alone.places.tolist()
    for definition in kind.definitions:
        found, expected = (one.change(definition, torch.tensor([2, 5])) for one in (padded, alone))
        torch.testing.assert_close(found.state_p, expected.state_p, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.answer_pld[:, : LENGTH - 3], expected.answer_pld)
        assert not found.answer_pld[:, LENGTH - 3 :].any()
    for name, interval_l in padded.intervals().items():
        torch.testing.assert_close(interval_l[padded.places], alone.intervals()[name])


def test_an_element_of_no_interval_changes_nothing():
    one = subject("s6", **S6)
    for definition in one.definitions:
        change = one.change(definition, torch.arange(LENGTH), 0.0)
        assert change.state_p.isnan().all()


def test_answers_are_changed_once_and_only_while_it_lasts():
    layer = model_of(n_layers=1).stack.blocks[0].mixer
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        plain = layer(x)[0]
        with answering_less(layer, torch.ones(2, 4, 8)):
            changed, again = layer(x)[0], layer(x)[0]
        torch.testing.assert_close(changed[:2], plain[:2] - 1)
        assert torch.equal(changed[2], plain[2])
        assert torch.equal(again, plain)
        assert torch.equal(layer(x)[0], plain)


@pytest.mark.parametrize("kind", ["classes", "gaussian", "values"])
def test_divergences_are_those_of_torch(kind):
    generator = torch.Generator().manual_seed(0)
    a, b, v, w = (torch.randn(2, 5, 3, generator=generator).double() for _ in range(4))
    if kind == "classes":
        p, q = (torch.distributions.Categorical(logits=value) for value in (a, b))
        first, second = Said(kind, (a,)), Said(kind, (b,))
    elif kind == "gaussian":
        p, q = torch.distributions.Normal(a, v.exp().sqrt()), torch.distributions.Normal(b, w.exp().sqrt())
        first, second = Said(kind, (a, v.exp())), Said(kind, (b, w.exp()))
    else:
        p, q = torch.distributions.Normal(a, 1.0), torch.distributions.Normal(b, 1.0)
        first, second = Said(kind, (a,)), Said(kind, (b,))
    expected = torch.distributions.kl_divergence(p, q).flatten(1).sum(1)
    torch.testing.assert_close(divergence(first, second), expected)
    assert divergence(first, first).abs().max() == 0


def test_a_language_head_is_asked_for_all_tokens(monkeypatch):
    model = model_of()
    batch = model.task.collate([Rows()[0], Rows()[1]])
    plain = said(model, batch)
    head = LanguageHead(8, 2)
    head.load_state_dict(model.head.state_dict())
    model.head = head
    asked = said(model, batch)
    other = Said("classes", (torch.zeros(2, LENGTH, 2),))
    monkeypatch.setattr("ssm_serpent.information.outputs.AT_ONCE", 6)
    assert asked.logits is not None
    torch.testing.assert_close(divergence(asked, other), divergence(plain, other), rtol=1e-5, atol=1e-7)


def test_what_is_ruled_out_says_nothing():
    p = Said("classes", (torch.tensor([[[0.0, 0.0, -torch.inf]]]),))
    q = Said("classes", (torch.tensor([[[0.0, 1.0, -torch.inf]]]),))
    assert 0 < divergence(p, q).item() < 1


@pytest.mark.parametrize("form", ["classes", "gaussian", "values", "unknown"])
def test_a_run_gives_a_row_a_layer_and_definition(form):
    model = model_of(form=form, **S6)
    found = probe(model, Rows(), InformationConfig(sequences=2, elements=5))
    assert [(row["layer"], row["left out"], row["elements"]) for row in found.rows] == [
        (layer, definition, 10) for layer in (0, 1) for definition in ("removed", "masked")
    ]
    for row in found.rows:
        assert row["slope, data fixed"] == pytest.approx(1, abs=0.02)
        assert -1 <= row["Spearman, state"] <= 1
        assert (row["Spearman, output"] is None) == (form == "unknown")
    assert len(found.charts) == 4
    assert "1.00" in found.text


def test_layers_that_resample_are_asked_too():
    """A row for each branch and definition, beside the recurrences in it, which see points."""
    found = probe(model_of(n_layers=1, **S6, **SERPENT), Rows(), InformationConfig(sequences=2, elements=5))
    rows = {(row["mixer"], row["left out"]): row for row in found.rows}
    resampler = [name for name, definition in rows if definition == "zeroed"]
    assert [name.split()[-1] for name in resampler] == ["1"]
    assert len(rows) == 2 * (1 + 2)
    for row in rows.values():
        assert -1 <= row["Spearman, output"] <= 1
        assert -1 <= row["Spearman, state"] <= 1
        assert (row["slope, data fixed"] is None) == (row["mixer"] in resampler)
    branch = rows[resampler[0], "removed"]
    assert 0.5 <= branch["mean interval"] <= 1


def test_the_interval_of_a_channel_goes_with_its_own_state():
    """With nothing but the interval between elements that differ, its rank decides."""
    one = subject("s6", **S6)
    own = one.copy
    own.x_bld = own.x_bld[:, :1].expand(-1, LENGTH, -1).contiguous()
    own.gaps = torch.linspace(0.5, 1.5, LENGTH).double()[None]
    with torch.no_grad():
        # Without decay all elements reach the end alike.
        own.mixer.A_log.fill_(-30.0)
    change = one.change("masked", torch.arange(LENGTH))
    assert change.channel_pd.shape == (LENGTH, 16)
    torch.testing.assert_close(change.channel_pd / change.channel_pd[:1], (own.gaps / 0.5).mT.expand(-1, 16))
    torch.testing.assert_close(change.channel_pd.norm(dim=1), change.state_p)


def test_both_directions_are_asked():
    found = probe(
        model_of(causal=False, n_layers=1, **S6), Rows(), InformationConfig(sequences=1, elements=4)
    )
    assert len({row["mixer"] for row in found.rows}) == 2
    assert all(row["Spearman, output"] is not None for row in found.rows)


def test_later_elements_alone_see_the_change():
    """What the output's divergence measures is the layer's doing: nothing of a last element reaches an earlier one."""
    model = model_of(n_layers=1, **S6)
    (module,) = [part for part in model.modules() if hasattr(part, "intervals")]
    batch = Batch(inputs=torch.randn(1, LENGTH, 3), targets=torch.zeros(1, LENGTH, 1))
    with first_calls({"it": module}) as calls, torch.no_grad():
        plain = model(batch).head
    change = Recurrence(module, calls["it"]).change("removed", torch.tensor([6]))
    with answering_less(module, change.answer_pld), torch.no_grad():
        other = model(batch).head
    assert torch.equal(other[:, :6], plain[:, :6])
    assert (other[:, 6:] - plain[:, 6:]).abs().amax(-1).min() > 0


def test_a_model_that_tells_no_intervals_is_refused_by_name():
    with pytest.raises(UserError, match="S5"):
        probe(model_of("s5", n_layers=1), Rows(), InformationConfig())


def test_layers_without_intervals_are_listed(monkeypatch):
    model = model_of(**S6)
    other = model_of("s5", n_layers=1)
    model.stack.blocks[1] = other.stack.blocks[0]
    found = probe(model, Rows(), InformationConfig(sequences=1, elements=3))
    assert found.rows[-1]["layer"] == 1
    assert "no intervals" in found.rows[-1]["mixer"]
    assert found.rows[-1]["elements"] is None


def test_the_model_is_left_as_it_was():
    model = model_of(**S6).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model, Rows(), InformationConfig(sequences=1, elements=2, layers="0"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize(
    "knobs", [{"elements": 1}, {"systems": 0}, {"intervals": (0.1,)}, {"intervals": (0.1, 0.0)}]
)
def test_knobs_out_of_range_are_refused(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        InformationConfig(**knobs)


def test_nothing_measured_is_no_number():
    assert all(
        math.isfinite(value) for value in probe(None, None, InformationConfig(systems=3)).figures.values()
    )
