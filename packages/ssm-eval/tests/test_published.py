from __future__ import annotations

import pytest

from ssm_core.run.config import RunConfig
from ssm_eval.published import nearest_published, published_for, published_rows

pytestmark = pytest.mark.usefixtures("plugins")


def config(addons=(), backbone="toynet", **task) -> RunConfig:
    tree = {"backbone": {"name": backbone}, "addons": {name: {} for name in addons}}
    return RunConfig.from_tree({**tree, "task": {"name": "toytask", **task}})


@pytest.mark.parametrize(
    ("run", "model"),
    [
        (config, "Net"),
        (lambda: config(time="ignored"), "Net, blind"),
        (lambda: config(time="ignored", scale=2.0), "Net, blind"),
        (lambda: config(scale=2.0), None),
        (lambda: config(addons=["toygate"]), "Net with gate"),
        (lambda: config(addons=["toygate"], length=6), None),
        (lambda: config(backbone="s5"), None),
    ],
)
def test_model_and_settings_have_to_agree(run, model):
    found = published_for(run())
    assert (found and found.model) == model


def test_a_figure_of_another_metric_is_not_taken():
    assert published_for(config(), "accuracy") is None
    assert published_for(config(), "mse").model == "Net"


@pytest.mark.parametrize(
    ("run", "model"),
    [
        (lambda: config(addons=["toygate"]), "Net with gate"),
        (lambda: config(addons=["toygate"], length=6), "Net without toygate"),
        (lambda: config(addons=["toygate"], scale=2.0, length=6), None),
        (lambda: config(scale=2.0), None),
    ],
)
def test_without_a_figure_of_its_own_the_bare_backbone_serves(run, model):
    found = nearest_published(run())
    assert (found and found.model) == model


def test_rows_are_all_of_the_task():
    assert [row.value for row in published_rows(config(scale=2.0))] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_without_a_task_there_is_nothing():
    bare = RunConfig.from_tree({"backbone": {"name": "toynet"}})
    assert published_for(bare) is None
    assert published_rows(bare) == ()
