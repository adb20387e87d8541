"""Every shipped study reads, plans, and asks for models that can be built."""

from __future__ import annotations

import warnings

import pytest
import torch

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig
from ssm_core.run.recipes import studies
from ssm_train.study.comparisons import outlook
from ssm_train.study.comparisons import planned as planned_comparisons
from ssm_train.study.plan import Plan, make_plan
from ssm_train.study.reading import read_study

SHIPPED = {f"{item.dist}/{item.name}": item for item in studies()}


def parameters(config: RunConfig) -> int:
    """Return the size of a run's model, built without memory."""
    assert config.task is not None
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = build_for_task(config, registry.builder("task", config.task.name)[1](config.task.config))
    return sum(parameter.numel() for parameter in model.parameters())


def planned(name: str) -> Plan:
    return make_plan(read_study(SHIPPED[name]))


def test_there_are_some() -> None:
    ours = ("sampling-shift", "smr-tau", "smr-state-size", "smr-irregularity", "smr-threshold", "smr-text")
    assert {f"ssm-smr/{name}" for name in ours} <= SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_it_plans_and_says_what_it_asks(name: str) -> None:
    plan = planned(name)
    assert plan.study.summary
    assert plan.study.question
    assert plan.jobs()
    assert len({cell.name for cell in plan.cells}) == len(plan.cells)
    for compare in plan.study.compare:
        assert any(
            all(cell.levels[axis] in levels for axis, levels in compare.of.items()) for cell in plan.cells
        )
    assert all(row["comparisons"] and row["pairs"][0] == row["pairs"][1] for row in outlook(plan))


def test_the_gain_is_compared_between_state_sizes() -> None:
    block, *_ = planned_comparisons(planned("ssm-smr/smr-state-size"))
    assert {row.test for row in block} == {"as trained", "rate 0.3", "rate 1.0"}
    cells = planned("ssm-smr/smr-state-size").cells
    for row in block:
        shown = [[(cells[i].levels["gate"], cells[i].levels["N"]) for i in each] for each in row.sets]
        assert shown == [[("dense", "256"), ("none", "256"), ("dense", "4"), ("none", "4")]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_its_models_can_be_built(name: str) -> None:
    for cell in planned(name).cells:
        assert parameters(cell.config) > 0


@pytest.mark.parametrize(("name", "places"), [("sampling-shift", 5), ("smr-text", 3)])
def test_the_control_has_as_many_parameters_as_the_gate(name: str, places: int) -> None:
    sizes: dict[tuple[str, str | None], dict[str, int]] = {}
    for cell in planned(f"ssm-smr/{name}").cells:
        if cell.levels["gate"] in ("smr dense", "wider"):
            place = cell.levels["backbone"], cell.levels.get("time")
            sizes.setdefault(place, {})[cell.levels["gate"]] = parameters(cell.config)
    assert len(sizes) == places
    for found in sizes.values():
        assert found["wider"] == pytest.approx(found["smr dense"], rel=0.03)


@pytest.mark.parametrize("name", ["serpent", "serpent-both-ways", "serpent-copying", "serpent-text"])
def test_models_with_serpent_have_as_many_parameters_as_those_without(name: str) -> None:
    sizes: dict[str, dict[str, int]] = {}
    for cell in planned(f"ssm-serpent/{name}").cells:
        sizes.setdefault(cell.levels["backbone"], {})[cell.levels["add-on"]] = parameters(cell.config)
    assert len(sizes) == 4 - (name == "serpent-both-ways"), "Liquid-S4 looks back only"
    for backbone, found in sizes.items():
        assert found["serpent"] == pytest.approx(found["none"], rel=0.05), backbone
