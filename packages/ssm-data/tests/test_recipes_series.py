"""Every recipe of the tasks on series: it parses, its settings exist, a stack is built, a run's config comes back."""

from __future__ import annotations

import dataclasses

import pytest

from ssm_core.model import build_stack
from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import Recipe, default_recipe, recipes

TASKS = ("irregular-csv", "speech-commands", "ts")
OURS = [each for each in recipes() if each.name.split("/")[0] in TASKS and each.dist == "ssm-data"]
EACH = [
    pytest.param(each, backbone, id=f"{each.name}-{backbone}") for each in OURS for backbone in each.backbones
]


def resolved(each: Recipe, backbone: str) -> RunConfig:
    return RunConfig.from_tree(layered(each.for_backbone(backbone), {"backbone": {"name": backbone}}))


def test_every_task_has_a_default() -> None:
    assert all(default_recipe(task) is not None for task in TASKS)
    more = {"speech-commands/all-words", "speech-commands/s5"}
    assert {each.name for each in OURS} == {f"{task}/default" for task in TASKS} | more


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_a_recipe_says_what_it_is(each: Recipe) -> None:
    assert 10 < len(each.summary) < 100
    assert set(each.tree) == {"task", "model", "optim", "train"}
    assert each.tree["task"]["name"] == each.name.split("/")[0]


@pytest.mark.parametrize(("each", "backbone"), EACH)
def test_every_setting_exists_and_the_stack_is_built(each: Recipe, backbone: str) -> None:
    config = resolved(each, backbone)
    assert config.task
    assert config.backbone
    knobs = each.backbones[backbone]
    assert all(getattr(config.backbone.config, name) == value for name, value in knobs.items())
    task = registry.build_task(config.task.name, dataclasses.asdict(config.task.config))
    model = dataclasses.replace(config.model, n_layers=1)
    assert build_stack(config.backbone, (), model, task.needs, task.max_length).causal == model.causal


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_what_a_run_folder_keeps_is_the_same_run(each: Recipe) -> None:
    """A knob of a task must not be called what the section of the task keeps for itself, such as its name."""
    config = resolved(each, next(iter(each.backbones)))
    assert RunConfig.from_tree(config.to_tree()) == config


def test_the_published_rate_of_s5_on_speech_commands() -> None:
    config = resolved(next(each for each in OURS if each.name == "speech-commands/s5"), "s5")
    assert config.backbone
    assert config.optim.lr * config.backbone.config.lr_scale == pytest.approx(0.002)
