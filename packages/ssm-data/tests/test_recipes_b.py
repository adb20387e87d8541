"""Every recipe of the picture tasks: it parses, says what it is, and its settings exist and build."""

from __future__ import annotations

import pytest
import torch

from ssm_core.model import build_for_task
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import Recipe, default_recipe, recipes

TASKS = ("lra-image", "lra-pathfinder", "lra-pathx")
PUBLISHED = ("chordmixer", "dss", "liquid_s4", "lru", "mega", "s4", "s4d", "s5", "s6", "seqboat")
OURS = [each for each in recipes() if each.name.split("/")[0] in TASKS and each.dist == "ssm-data"]
EACH = [
    pytest.param(each, backbone, id=f"{each.name}-{backbone}") for each in OURS for backbone in each.backbones
]


def resolved(each: Recipe, backbone: str) -> RunConfig:
    return RunConfig.from_tree(layered(each.for_backbone(backbone), {"backbone": {"name": backbone}}))


def test_every_task_has_a_default_and_the_published_ones() -> None:
    assert all(default_recipe(task) is not None for task in TASKS)
    found = {each.name for each in OURS}
    assert found == {f"{task}/{name}" for task in TASKS for name in ("default", *PUBLISHED)} | {
        "lra-image/fashion-mnist",
        "lra-pathfinder/small",
    }


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_a_recipe_says_what_it_is(each: Recipe) -> None:
    task, name = each.name.split("/")
    assert each.summary
    assert set(each.tree) == {"task", "model", "optim", "train"}
    assert each.tree["task"]["name"] == task
    assert name not in PUBLISHED or list(each.backbones) == [name]


@pytest.mark.parametrize(("each", "backbone"), EACH)
def test_every_setting_exists_and_the_model_builds(each: Recipe, backbone: str) -> None:
    config = resolved(each, backbone)
    assert config.backbone is not None
    assert config.task is not None
    names = (config.recipe, config.backbone.short, config.task.short)
    assert names == (each.name, backbone, each.name.split("/")[0])
    knobs = each.backbones[backbone]
    assert all(getattr(config.backbone.config, name) == value for name, value in knobs.items())
    task = registry.builder("task", config.task.name)[1](config.task.config)
    with torch.device("meta"):
        model = build_for_task(config, task)
    assert sum(p.numel() for p in model.parameters()) > 1000


def test_learning_rates_of_the_state_spaces_are_the_published_ones() -> None:
    found = {}
    for each in OURS:
        for backbone in ("s4", "s5"):
            if each.name.endswith(f"/{backbone}"):
                config = resolved(each, backbone)
                assert config.backbone is not None
                found[each.name] = round(config.optim.lr * config.backbone.config.lr_scale, 6)
    assert found == {f"{task}/s4": 0.001 for task in TASKS} | {
        "lra-image/s5": 0.001,
        "lra-pathfinder/s5": 0.0009,
        "lra-pathx/s5": 0.0006,
    }
