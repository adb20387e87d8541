from __future__ import annotations

from pathlib import Path

import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, PluginError
from ssm_core.run.config import RunConfig, layered
from ssm_core.run.recipes import default_recipe, recipe, recipes, studies, study


def test_recipes_are_named_after_where_they_lie(toys) -> None:
    ours = {item.name: item for item in recipes() if item.dist == "toy-plugins"}
    assert list(ours) == ["toy_task/default", "toy_task/long"]
    assert ours["toy_task/default"].summary == "a quick look"
    assert recipe("default", "toy_task") == recipe("toy_task/default", "whatever")
    assert recipe("toy_task/long", "").tree == {"train": {"epochs": 30}}


@pytest.mark.parametrize("backbone", ["toy_backbone", "toy-plugins/toy_backbone", "s5", "ssm-core/s5", None])
def test_knobs_that_depend_on_the_backbone(toys, backbone: str | None) -> None:
    tree = recipe("default", "toy_task").for_backbone(backbone)
    if backbone:
        tree = layered(tree, {"backbone": {"name": backbone}})
    run = RunConfig.from_tree(tree)
    assert (run.train.epochs, run.optim.lr, run.recipe) == (3, 0.05, "toy_task/default")
    if backbone:
        assert run.backbone is not None
        assert run.backbone.config == registry.configure(
            "backbone", backbone, {"state_size": 8} if "s5" in backbone else {"kind": "b"}
        )


def test_knobs_are_not_those_of_a_namesake(toys, site) -> None:
    """Another distribution's s5 has other knobs than ours."""
    assert recipe("default", "toy_task").for_backbone("other/s5")["backbone"] == {}


def test_the_default_recipe_is_the_one_called_so(toys) -> None:
    found = default_recipe("toy-plugins/toy_task")
    assert found == recipe("default", "toy_task")
    assert default_recipe("nothing") is None


def test_an_unknown_recipe_gets_a_suggestion(toys) -> None:
    with pytest.raises(PluginError, match=r"no recipe 'toy_task/defualt'\n.*'toy_task/default'"):
        recipe("defualt", "toy_task")


def test_a_broken_distribution_hides_no_other(toys, site) -> None:
    site.install("bad", {"ssm.recipes": {"bad": "fake_nowhere"}})
    assert "toy_task/default" in {item.name for item in recipes()}


@pytest.mark.parametrize("text", [b"a = = 1\n", b'summary = "caf\xe9"\n'])
def test_a_recipe_that_cannot_be_read_hurts_only_who_asks_for_it(toys, site, text: bytes) -> None:
    folder: Path = site.path / "fake_recipes"
    (folder / "toy_task").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "toy_task" / "torn.toml").write_bytes(text)
    site.install("torn-dist", {"ssm.recipes": {"torn": "fake_recipes"}})
    assert "toy_task/default" in {item.name for item in recipes()}
    with pytest.raises(ConfigError, match="recipe toy_task/torn of torn-dist"):
        recipe("torn", "toy_task")


def test_two_distributions_with_a_recipe_of_one_name(toys, site) -> None:
    """As with all plugins, neither has priority: the short name is refused, the long one settles it."""
    folder: Path = site.path / "fake_recipes"
    (folder / "toy_task").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "toy_task" / "long.toml").write_text("train.epochs = 300")
    site.install("also", {"ssm.recipes": {"also": "fake_recipes"}})
    with pytest.raises(PluginError, match="shipped 2 times: also/toy_task/long, toy-plugins/toy_task/long"):
        recipe("long", "toy_task")
    assert recipe("also/toy_task/long", "toy_task").tree == {"train": {"epochs": 300}}


def test_the_default_recipe_of_the_task_own_distribution_goes_first(toys, site) -> None:
    folder: Path = site.path / "fake_recipes"
    (folder / "toy_task").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "toy_task" / "default.toml").write_text("train.epochs = 300")
    site.install("also", {"ssm.recipes": {"also": "fake_recipes"}})
    found = default_recipe("toy_task")
    assert found is not None
    assert found.dist == "toy-plugins"


def studies_of(site, dist: str, **texts: str) -> None:
    folder: Path = site.path / f"fake_{dist}"
    (folder / "studies").mkdir(parents=True)
    (folder / "__init__.py").touch()
    for name, text in texts.items():
        (folder / "studies" / f"{name}.toml").write_text(text)
    site.install(dist, {"ssm.recipes": {dist: f"fake_{dist}"}})


def test_studies_stand_beside_recipes_and_are_none(toys, site) -> None:
    before = [item.name for item in recipes()]
    studies_of(site, "grids", wide='summary = "a grid"\n[[axes]]\nname = "a"', torn="a = = 1")
    assert [item.name for item in recipes()] == before
    ours = [item for item in studies() if item.dist == "grids"]
    assert [(item.name, item.summary) for item in ours] == [("wide", "a grid")]
    assert study("wide") == study("grids/wide") == ours[0]
    assert study("wide").tree["axes"] == [{"name": "a"}]
    with pytest.raises(ConfigError, match="study torn of grids is not valid TOML"):
        study("torn")
    with pytest.raises(PluginError, match=r"no study 'wied'\n.*'wide'"):
        study("wied")
    with pytest.raises(PluginError, match="no recipe 'studies/wide'"):
        recipe("studies/wide", "")


def test_two_distributions_with_a_study_of_one_name(toys, site) -> None:
    studies_of(site, "one", wide="")
    studies_of(site, "two", wide="")
    with pytest.raises(
        PluginError, match=r"study 'wide' is shipped 2 times: one/wide, two/wide\n.*ssm study one/wide"
    ):
        study("wide")
    assert study("two/wide").dist == "two"
