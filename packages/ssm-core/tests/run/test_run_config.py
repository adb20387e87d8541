from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from ssm_core.plugin.config import parse_set
from ssm_core.plugin.errors import ConfigError, PluginError
from ssm_core.run.config import RunConfig, layered

pytestmark = pytest.mark.usefixtures("toys")

FULL: dict[str, Any] = {
    "backbone": {"name": "s5", "state_size": 8, "clip_eigs": True},
    "addons": {"toy_twice": {"factor": 2.0}, "toy_scale": {"layers": "0"}},
    "task": {"name": "toy_task", "n_train": 4},
    "model": {"d_model": 16, "norm": "rms"},
    "optim": {"lr": 1e-5, "schedule": "constant"},
    "train": {"steps": 7, "clip_norm": 1.0},
    "seed": 3,
    "recipe": "toy_task/default",
}


def test_names_are_resolved_and_knobs_checked() -> None:
    run = RunConfig.from_tree(FULL)
    assert run.backbone is not None
    assert run.task is not None
    assert (run.backbone.name, run.backbone.short) == ("ssm-core/s5", "s5")
    assert (run.task.name, run.task.version) == ("toy-plugins/toy_task", "2.5")
    assert (run.backbone.config.state_size, run.task.config.n_train) == (8, 4)
    assert [addon.short for addon in run.addons] == ["toy_twice", "toy_scale"]
    assert (run.model.norm, run.optim.lr, run.train.steps, run.seed) == ("rms", 1e-5, 7, 3)
    assert run.label() == "s5+toy_twice+toy_scale"


def test_defaults_are_enough() -> None:
    run = RunConfig.from_tree({})
    assert (run.backbone, run.task, run.addons, run.label()) == (None, None, (), "own-model")


@pytest.mark.parametrize("tree", [FULL, {}, {"task": {"name": "toy_task"}}])
def test_json_and_toml_bring_it_back(tree: dict[str, Any]) -> None:
    run = RunConfig.from_tree(tree)
    assert RunConfig.from_tree(json.loads(json.dumps(run.to_tree()))) == run
    again = RunConfig.from_tree({**tomllib.loads(run.to_toml()), "recipe": run.recipe})
    assert again == run
    assert again.fingerprint() == run.fingerprint()


def test_toml_shows_every_knob_with_its_documentation() -> None:
    text = RunConfig.from_tree(FULL).to_toml()
    assert '[addons."toy-plugins/toy_twice"]' in text
    assert "# Scales what goes in: 1 leaves it.  (float)\nfactor = 2.0\n" in text
    assert "# Optimiser steps, instead of epochs.  (int | None)\nsteps = 7\n" in text


def test_the_fingerprint_tells_settings_apart() -> None:
    runs = [RunConfig.from_tree(tree) for tree in (FULL, {**FULL, "seed": 4}, {**FULL, "train": {}})]
    assert len({run.fingerprint() for run in runs}) == 3


@pytest.mark.parametrize(
    ("tree", "error", "words"),
    [
        ({"modle": {}}, ConfigError, r"no section 'modle'\n.*'model'"),
        ({"model": {"d_modle": 3}}, ConfigError, r"no setting 'model\.d_modle'\n.*'d_model'"),
        (
            {"model": {"d_model": 0}},
            ConfigError,
            r"^the run: d_model must be at least 1 \(given: model\.d_model = 0\)\n +d_model: Width",
        ),
        ({"model": {"dropout": 1.0}}, ConfigError, r"dropout must be in \[0, 1\)"),
        ({"optim": {"lr": 0.0}}, ConfigError, r"^the run: lr must be above 0 \(given: optim\.lr = 0\.0\)\n"),
        ({"optim": {"beta2": 1.0}}, ConfigError, r"beta2 must be in .* \(given: optim\.beta2 = 1\.0\)"),
        ({"train": {"batch_size": 0}}, ConfigError, "batch_size must be at least 1"),
        ({"train": {"steps": 0}}, ConfigError, "steps must be at least 1"),
        (
            {"train": {"accumulate": 3}},
            ConfigError,
            r"accumulate must divide batch_size \(given: train\.accumulate = 3\)",
        ),
        (
            {"optim": {"lr": 1.0, "weight_decay": -1.0}},
            ConfigError,
            r"^the run: weight_decay must .* \(given: optim\.weight_decay = -1\.0\)",
        ),
        (
            {"train": {"accumulate": 3, "batch_size": 32, "epochs": 2}},
            ConfigError,
            r"\(given: train\.accumulate = 3, train\.batch_size = 32\)",
        ),
        ({"train": {"precision": "fp8"}}, ConfigError, r"'train\.precision' of the run"),
        ({"train": 3}, ConfigError, "'train' is a table of settings, not 3"),
        ({"addons": ["smr"]}, ConfigError, "'addons' is a table of settings"),
        ({"seed": -1}, ConfigError, "'seed' must be an integer of at least 0"),
        ({"seed": True}, ConfigError, "'seed' must be"),
        ({"seed": "1"}, ConfigError, "'seed' must be"),
        ({"schema": 2}, ConfigError, "schema 2 is not 1"),
        ({"backbone": {"state_size": 8}}, ConfigError, "settings for a backbone are given, but no backbone"),
        (
            {"backbone": {"name": "s5", "state_size": 7}},
            ConfigError,
            r"^backbone ssm-core/s5: state_size 7 (?!.*\(given)",
        ),
        ({"backbone": {"name": "absent"}}, PluginError, "there is no backbone 'absent'"),
        ({"addons": {"toy_scal": {}}}, PluginError, "did you mean 'toy_scale'"),
        (
            {"addons": {"toy_scale": {"facto": 1}}},
            ConfigError,
            r"toy-plugins/toy_scale.*addons\.toy_scale\.facto",
        ),
    ],
)
def test_mistakes_are_told(tree: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        RunConfig.from_tree(tree)


def test_later_layers_win() -> None:
    recipe = {"optim": {"lr": 0.1, "beta1": 0.8}, "model": {"d_model": 8}}
    file = {"optim": {"lr": 0.2}, "train": {"epochs": 5}}
    flags = {"train": {"epochs": 6}, "backbone": {"name": "s5"}}
    tree = layered(recipe, file, flags, overrides=parse_set(["train.epochs=7", "backbone.state_size=4"]))
    run = RunConfig.from_tree(tree)
    assert (run.optim.lr, run.optim.beta1, run.model.d_model, run.train.epochs) == (0.2, 0.8, 8, 7)
    assert run.backbone is not None
    assert run.backbone.config.state_size == 4


def test_a_length_in_epochs_replaces_one_in_steps_below_it() -> None:
    steps = {"train": {"steps": 9}}
    assert RunConfig.from_tree(layered(steps, overrides=parse_set(["train.epochs=4"]))).train.steps is None
    assert RunConfig.from_tree(layered(steps, {"train": {"batch_size": 4}})).train.steps == 9
    assert RunConfig.from_tree(layered({"train": {"epochs": 4}}, steps)).train.steps == 9
    assert RunConfig.from_tree(layered(steps, overrides=parse_set(["train.steps=none"]))).train.steps is None


def test_the_command_line_fixes_add_ons_and_their_order() -> None:
    recipe = {"addons": {"toy_scale": {"factor": 3.0}, "toy_mirror": {}}}
    tree = layered(recipe, addons=["toy_twice", "toy-plugins/toy_scale"])
    run = RunConfig.from_tree(tree)
    assert [addon.short for addon in run.addons] == ["toy_twice", "toy_scale"]
    assert run.addons[1].config.factor == 3.0


def test_add_ons_of_the_recipe_stay_unless_others_are_named() -> None:
    recipe = {"addons": {"toy_scale": {"factor": 3.0}}}
    assert layered(recipe) == recipe
    assert layered(recipe, addons=[])["addons"] == {}


def test_long_and_short_names_of_an_add_on_are_one() -> None:
    recipe = {"addons": {"toy-plugins/toy_scale": {"factor": 3.0, "kind": "b"}}}
    tree = layered(recipe, {"addons": {"toy_scale": {"factor": 4.0}}})
    assert tree["addons"] == {"toy-plugins/toy_scale": {"factor": 4.0, "kind": "b"}}
    overridden = layered(recipe, overrides=parse_set(["addons.toy_scale.factor=5"]))
    assert overridden["addons"] == {"toy-plugins/toy_scale": {"factor": 5, "kind": "b"}}


def test_an_add_on_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        layered(addons=["toy_scale", "toy-plugins/toy_scale"])


def test_settings_for_an_add_on_that_is_not_chosen_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'toy_scale' are given, but it is not chosen\n.*--addon toy_scale"
    ):
        layered(overrides=parse_set(["addons.toy_scale.factor=2"]), addons=["toy_twice"])


def test_another_plugin_starts_from_its_own_settings() -> None:
    recipe = {"backbone": {"name": "s5", "state_size": 8}, "task": {"name": "toy_task", "n_train": 5}}
    tree = layered(recipe, {"backbone": {"name": "toy_backbone"}, "task": {"name": "toy-plugins/toy_task"}})
    assert tree["backbone"] == {"name": "toy_backbone"}
    assert tree["task"] == {"name": "toy-plugins/toy_task", "n_train": 5}


def test_layers_are_not_changed() -> None:
    recipe = {"addons": {"toy_scale": {"factor": 3.0}}, "optim": {"lr": 1.0}}
    kept = json.loads(json.dumps(recipe))
    layered(
        recipe,
        {"optim": {"lr": 2.0}},
        overrides={"addons": {"toy_scale": {"factor": 1}}},
        addons=["toy_scale"],
    )
    assert recipe == kept
