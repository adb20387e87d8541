"""What the probe `information` measures and reports at its edges: rounding, masks, devices, modes, nothing at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from guessing import LENGTH, S6, SERPENT, Guess, Rows, model_of, subject
from torch import nn

from ssm_core.evaluating import evaluating
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Batch
from ssm_serpent.information.calls import first_calls
from ssm_serpent.information.measure import probe
from ssm_serpent.information.report import report
from ssm_serpent.information.spec import InformationConfig
from ssm_serpent.information.statistics import median
from ssm_serpent.information.subjects import Recurrence
from ssm_serpent.information.trained import Part, Sample, parts_of, sample


@pytest.mark.parametrize("definition", Recurrence.definitions)
def test_what_is_forgotten_is_lost_in_rounding_and_not_a_distance(definition):
    """With a gap in which all decays by e^-60 but for one channel, what came before is no finding, but in that one."""
    one = subject("s6", **S6)
    with torch.no_grad():
        one.copy.mixer.A_log.fill_(0.0)
        one.copy.mixer.A_log[3] = -60.0
    one.copy.gaps[:, 6] = 1e4
    change = one.change(definition, torch.tensor([2, 6, 8]))
    assert change.channel_pd.isnan().tolist() == [
        [channel != 3 for channel in range(16)],
        [False] * 16,
        [False] * 16,
    ]
    one.copy.mixer.A_log.data[3] = 0.0
    change = one.change(definition, torch.tensor([2, 6, 8]))
    assert change.state_p.isnan().tolist() == [True, False, False]


def sample_of(**found: Any) -> Sample:
    return Sample(Part(0, "mixer", nn.Identity()), "", "removed", **found)


def test_what_is_lost_in_rounding_is_left_out_and_counted():
    interval, after = [0.1, 0.2, 0.3, 0.4], [3, 2, 1, 0]
    state = [math.nan, 2.0, 3.0, 4.0]
    channels = [
        (torch.tensor([interval] * 2).double().T, torch.tensor([state, [1.0, 2.0, 3.0, 4.0]]).double().T)
    ]
    one = sample_of(interval=interval, after=after, state=state, output=state, channels=channels)
    (row,) = report([one], [], 1).rows
    assert (row["elements"], row["above rounding"]) == (4, 3)
    assert row["slope, state"] == pytest.approx(1)
    assert row["Spearman, state, in a channel"] == pytest.approx(1)
    assert row["Spearman, state and elements after"] == pytest.approx(-1)


def test_a_channel_that_does_not_move_hides_no_other():
    interval = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]).double()
    states = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]).double()
    one = sample_of(
        interval=[0.1, 0.2, 0.3],
        after=[2, 1, 0],
        state=[1.0, 2.0, 3.0],
        output=[1.0, 2.0, 3.0],
        channels=[(interval, states)],
    )
    assert report([one], [], 1).rows[0]["Spearman, state, in a channel"] == pytest.approx(1)


def test_the_median_is_between_the_middle_two():
    assert median(torch.tensor([1.0, math.nan, 2.0, math.inf]).double()) == pytest.approx(1.5)
    assert math.isnan(median(torch.tensor([math.nan])))


class Empty(Guess):
    """All elements of all sequences are masked."""

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        batch = super().collate(rows)
        return replace(batch, mask_bl=torch.zeros(batch.inputs.shape[:2], dtype=torch.bool))


def test_nothing_to_leave_out_is_said():
    model = model_of(n_layers=2, **S6)
    model.stack.blocks[1] = model_of("s5", n_layers=1).stack.blocks[0]
    model.task = Empty()
    with pytest.raises(UserError, match="nothing was measured: none of the 2 sequences has an element"):
        probe(model, Rows(), InformationConfig(sequences=2, elements=3))


def test_masked_elements_do_not_come_after():
    model = model_of("s5", n_layers=1, state_size=4, blocks=1, **SERPENT)
    model.task = Holes()
    parts, _ = parts_of(model, "*")
    found = sample(model, [Rows()[0]], parts, InformationConfig(elements=LENGTH), torch.device("cpu"))
    assert found[0].after == list(reversed(range(LENGTH // 2)))


class Holes(Guess):
    """Every other element is masked."""

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        batch = super().collate(rows)
        return replace(batch, mask_bl=torch.arange(LENGTH).expand(len(rows), -1) % 2 == 1)


@pytest.mark.parametrize("knobs", [S6, S6 | SERPENT])
def test_helpers_are_where_the_model_is(knobs):
    """What is made without saying where lands on a device that holds nothing, and cannot be added to anything."""
    model = model_of(n_layers=1, **knobs)
    batch = model.task.collate([Rows()[0]])
    parts, _ = parts_of(model, "*")
    with first_calls({part.key: part.module for part in parts}) as calls, torch.no_grad():
        model(batch)
    for part in parts:
        with torch.device("meta"):
            one = part.subject(calls[part.key])
            found = [*one.intervals().values()]
            for name in one.definitions:
                change = one.change(name, one.places[:2])
                found += [change.state_p, change.answer_pld]
        assert {value.device.type for value in found} == {"cpu"}


def test_a_model_is_asked_where_it_is(device):
    config = InformationConfig(sequences=1, elements=3)
    here = probe(model_of(n_layers=1, **S6), Rows(), config)
    there = probe(model_of(n_layers=1, **S6).to(device), Rows(), config)
    for one, other in zip(here.rows, there.rows, strict=True):
        assert one["slope, data fixed"] == pytest.approx(other["slope, data fixed"], rel=1e-4)
        assert one["elements"] == other["elements"]


def test_modes_are_restored_one_by_one_and_after_a_failure():
    model = model_of(n_layers=2, **S6).train()
    model.stack.blocks[0].eval()
    before = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model) as device:
            assert device == torch.device("cpu")
            assert not any(module.training for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2
