"""Every recipe of these tasks names knobs that exist, and a stack can be built from it."""

from __future__ import annotations

import dataclasses

import pytest

from ssm_core.model import build_stack
from ssm_core.plugin import registry
from ssm_core.run.config import Choice, RunConfig, layered
from ssm_core.run.recipes import Recipe, recipe, recipes

TASKS = ("lra-listops", "lra-text", "lra-retrieval")
PUBLISHED = ("chordmixer", "dss", "liquid_s4", "lru", "mega", "s4", "s4d", "s5", "s6", "seqboat")

OURS = [each for each in recipes() if each.name.partition("/")[0] in TASKS and each.dist == "ssm-data"]
CASES = [(each.name, backbone) for each in OURS for backbone in each.backbones]

TRAINING = {"lra-listops": 96_000, "lra-text": 25_000, "lra-retrieval": 147_086}


def test_every_task_has_a_default_and_the_published_ones() -> None:
    expected = {f"{task}/{name}" for task in TASKS for name in ("default", *PUBLISHED)}
    assert {each.name for each in OURS} == expected | {"lra-text/spam"}


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_a_recipe_says_what_it_is_and_names_backbones(each: Recipe) -> None:
    assert 10 < len(each.summary) < 100
    task, _, name = each.name.partition("/")
    assert each.tree["task"]["name"] == task
    assert list(each.backbones) == [name] if name in PUBLISHED else len(each.backbones) >= 3


def resolved(name: str, backbone: str) -> tuple[RunConfig, Choice, Choice]:
    tree = recipe(name, "").for_backbone(backbone)
    config = RunConfig.from_tree(layered(tree, {"backbone": {"name": backbone}}))
    assert config.task
    assert config.backbone
    return config, config.task, config.backbone


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_a_recipe_resolves_and_its_stack_is_built(name: str, backbone: str) -> None:
    config, chosen, mixer = resolved(name, backbone)
    task = registry.build_task(chosen.name, dataclasses.asdict(chosen.config))
    # One block: the others differ in their place only. But for ChordMixer, which needs all to reach everywhere.
    model = config.model if backbone == "chordmixer" else dataclasses.replace(config.model, n_layers=1)
    stack = build_stack(mixer, (), model, task.needs, task.max_length)
    assert stack.d_model == model.d_model
    assert stack.causal == (model.causal and backbone != "chordmixer")
    assert config.train.epochs >= 1


@pytest.mark.parametrize(
    ("name", "backbone"), [case for case in CASES if case[0].partition("/")[2] in PUBLISHED]
)
def test_a_published_run_is_as_long_as_published(name: str, backbone: str) -> None:
    """Epochs and batches give the numbers of steps that the sources print, where they print them."""
    train = resolved(name, backbone)[0].train
    printed = {
        ("lra-listops", "s4"): 120_000,
        ("lra-text", "s4"): 50_000,
        ("lra-retrieval", "s4"): 46_000,
        ("lra-listops", "mega"): 90_000,
        ("lra-text", "mega"): 25_000,
        ("lra-retrieval", "mega"): 91_960,
    }
    task = name.partition("/")[0]
    steps = train.steps or train.epochs * (TRAINING[task] // train.batch_size)
    assert steps > 5000
    if (task, backbone) in printed:
        assert steps == pytest.approx(printed[task, backbone], rel=0.001)


@pytest.mark.parametrize(
    ("name", "backbone", "rate"),
    [
        ("lra-listops/s4", "s4", 1e-3),
        ("lra-text/s4d", "s4d", 1e-3),
        ("lra-listops/s5", "s5", 1e-3),
        ("lra-text/s5", "s5", 1e-3),
        ("lra-retrieval/s5", "s5", 1e-3),
        ("lra-listops/dss", "dss", 1e-3),
    ],
)
def test_state_space_parameters_train_at_the_published_rate(name: str, backbone: str, rate: float) -> None:
    config, _, mixer = resolved(name, backbone)
    assert config.optim.lr * mixer.config.lr_scale == pytest.approx(rate, rel=1e-3)
    if backbone == "dss":
        assert config.optim.lr * mixer.config.lr_scale_dt == pytest.approx(0.02)


@pytest.mark.parametrize("task", TASKS)
def test_published_figures_are_shares_and_hold_under_the_task_s_own_knobs(task: str) -> None:
    spec = registry.describe("task", task)[1]
    assert len(spec.published) > 10
    for row in spec.published:
        assert 0.3 < row.value < 0.95, "a share, not percent"
        assert row.source
    names = {row.backbone for row in spec.published} - {""}
    assert names <= {entry.name for entry in registry.found("backbone")}
    defaults = spec.config()
    for name, text in spec.published[0].settings:
        assert str(getattr(defaults, name)) == text
