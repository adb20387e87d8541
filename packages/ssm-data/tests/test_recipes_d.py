"""The recipes of the language-modelling tasks parse, and their knobs are those of the backbones they name."""

from __future__ import annotations

from typing import Any

import pytest

from ssm_core.model import build_stack
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import Recipe, default_recipe, recipes

TASKS = ("text-lm", "wikitext103")
OURS = {
    recipe.name: recipe
    for recipe in recipes()
    if recipe.name.split("/")[0] in TASKS and recipe.dist == "ssm-data"
}
CASES = [(name, backbone) for name, recipe in OURS.items() for backbone in recipe.backbones]


def resolved(recipe: Recipe, backbone: str, **over: Any) -> RunConfig:
    return RunConfig.from_tree(layered(recipe.for_backbone(backbone), {"backbone": {"name": backbone}}, over))


def test_they_are_there() -> None:
    names = ("default", "bpe", "s4", "transformer", "mega", "spade", "h3")
    assert set(OURS) == {"text-lm/default", *(f"wikitext103/{name}" for name in names)}
    assert all(default_recipe(task) is not None for task in TASKS)
    assert all(recipe.summary for recipe in OURS.values())


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_knobs_are_known(name: str, backbone: str) -> None:
    config = resolved(OURS[name], backbone)
    assert config.task is not None
    assert config.task.short == name.split("/")[0]
    assert config.backbone is not None
    for knob, value in OURS[name].backbones[backbone].items():
        assert getattr(config.backbone.config, knob) == value


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_a_narrow_model_of_it_builds(name: str, backbone: str) -> None:
    config = resolved(OURS[name], backbone, model={"d_model": 64})
    assert config.task is not None
    assert config.backbone is not None
    task = registry.builder("task", config.task.name)[1](config.task.config)
    stack = build_stack(config.backbone, (), config.model, task.needs, task.max_length)
    assert len(stack.each()) == config.model.n_layers
    assert stack.causal
