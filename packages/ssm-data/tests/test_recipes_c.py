"""Every recipe of the synthetic tasks and the digits: it parses, says what it is, and its settings exist."""

from __future__ import annotations

import pytest

from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import Recipe, default_recipe, recipe, recipes

TASKS = ("digits", "induction-heads", "mqar", "selective-copying", "sine")
OURS = [each for each in recipes() if each.name.split("/")[0] in TASKS and each.dist == "ssm-data"]
EACH = [
    pytest.param(each, backbone, id=f"{each.name}-{backbone}") for each in OURS for backbone in each.backbones
]


def resolved(each: Recipe, backbone: str) -> RunConfig:
    return RunConfig.from_tree(layered(each.for_backbone(backbone), {"backbone": {"name": backbone}}))


def test_every_task_has_a_default_and_the_ones_that_are_documented() -> None:
    assert {task: recipe("default", task).name for task in TASKS} == {
        task: f"{task}/default" for task in TASKS
    }
    assert all(default_recipe(task) is not None for task in TASKS)
    assert {each.name for each in OURS} == {f"{task}/default" for task in TASKS} | {
        "digits/causal",
        "digits/transformer",
        "induction-heads/long",
        "mqar/zoology",
        "selective-copying/long",
        "sine/jittered",
        "sine/study",
        "sine/uniform",
    }


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_a_recipe_says_what_it_is(each: Recipe) -> None:
    assert each.summary
    assert each.backbones, "it names no backbone"
    assert set(each.tree) == {"task", "model", "optim", "train"}
    assert each.tree["task"]["name"] == each.name.split("/")[0]


@pytest.mark.parametrize(("each", "backbone"), EACH)
def test_every_setting_exists_and_the_model_can_be_what_is_asked(each: Recipe, backbone: str) -> None:
    from ssm_core.model import build_for_task

    config = resolved(each, backbone)
    assert (config.recipe, config.backbone.short, config.task.short) == (
        each.name,
        backbone,
        each.name.split("/")[0],
    )
    assert all(
        getattr(config.backbone.config, name) == value for name, value in each.backbones[backbone].items()
    )
    task = registry.builder("task", config.task.name)[1](config.task.config)
    model = build_for_task(config, task)
    assert sum(p.numel() for p in model.parameters()) > 1000


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_the_length_is_the_documented_one(each: Recipe) -> None:
    config = resolved(each, next(iter(each.backbones)))
    steps = config.train.epochs * (config.task.config.n_train // config.train.batch_size)
    expected = {
        "digits": 400,
        "sine": 400,
        "mqar/default": 800,
        "induction-heads/default": 800,
        "selective-copying/default": 1600,
        "induction-heads/long": 6144,
        "selective-copying/long": 8000,
        "mqar/zoology": 12_480,
    }
    assert steps == expected.get(each.name, expected.get(each.name.split("/")[0]))
