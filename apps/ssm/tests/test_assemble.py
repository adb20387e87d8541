from __future__ import annotations

import dataclasses

import pytest

from ssm_core.plugin.config import parse_set
from ssm_core.plugin.errors import ConfigError, PluginError, UserError
from ssm_core.run import recipes
from ssm_lab import assemble
from ssm_lab.assemble import Flags, run_config

BASE = Flags(backbone="s5", task="pendulum")


def given(**flags) -> Flags:
    return dataclasses.replace(BASE, **flags)


def file(tmp_path, text: str, name: str = "run.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.fixture
def shipped(monkeypatch):
    """Ship these recipes and no others."""

    def ship(**trees):
        made = {
            name.replace("__", "/"): recipes.Recipe(
                name=name.replace("__", "/"),
                dist="x",
                summary="",
                tree={k: v for k, v in tree.items() if k != "backbones"},
                backbones=tree.get("backbones", {}),
            )
            for name, tree in trees.items()
        }
        monkeypatch.setattr(
            recipes, "default_recipe", lambda task: made.get(f"{task.split('/')[-1]}/default")
        )
        monkeypatch.setattr(
            recipes, "recipe", lambda name, task: made[name if "/" in name else f"{task}/{name}"]
        )

    return ship


def test_each_layer_overrides_the_ones_before(tmp_path, shipped):
    shipped(pendulum__default={"optim": {"lr": 2e-3}})
    one = file(tmp_path, "[optim]\nlr = 3e-3\n[train]\nepochs = 3", "one.toml")
    two = file(tmp_path, "[train]\nepochs = 4", "two.toml")
    lr = lambda flags: run_config(flags).optim.lr  # noqa: E731
    epochs = lambda flags: run_config(flags).train.epochs  # noqa: E731
    assert lr(BASE) == 2e-3
    assert lr(given(files=[one])) == 3e-3
    assert epochs(given(files=[one, two])) == 4
    assert epochs(given(files=[two, one])) == 3
    assert epochs(given(files=[one, two], epochs=5)) == 5
    assert epochs(given(files=[one, two], epochs=5, sets=["train.epochs=6"])) == 6
    assert lr(given(files=[one], sets=["optim.lr=1", "optim.lr=4e-3"])) == 4e-3


def test_without_a_recipe_the_defaults_hold(shipped):
    shipped()
    config = run_config(BASE)
    assert config.recipe == ""
    assert config.optim.lr == 1e-3


def test_a_recipe_brings_the_knobs_of_the_backbone_that_is_chosen(shipped):
    shipped(pendulum__default={"backbones": {"s5": {"state_size": 12}, "other": {"nonsense": 1}}})
    assert run_config(BASE).backbone.config.state_size == 12
    assert run_config(given(backbone="ssm-core/s5")).backbone.config.state_size == 12
    assert run_config(given(sets=["backbone.state_size=8"])).backbone.config.state_size == 8


def test_a_recipe_may_be_named_alone_or_with_its_task(shipped):
    shipped(pendulum__default={}, pendulum__paper={"train": {"epochs": 100}})
    assert run_config(given(recipe="paper")).train.epochs == 100
    assert run_config(given(recipe="pendulum/paper")).recipe == "pendulum/paper"
    named = run_config(Flags(backbone="s5", recipe="pendulum/paper"))
    assert named.task.short == "pendulum"
    assert named.train.epochs == 100
    with pytest.raises(ConfigError, match="recipe 'paper' of which task"):
        run_config(Flags(backbone="s5", recipe="paper"))


def test_a_file_may_name_its_recipe(tmp_path, shipped):
    shipped(pendulum__default={}, pendulum__paper={"train": {"epochs": 100}})
    text = 'recipe = "paper"\n[task]\nname = "pendulum"\n[optim]\nlr = 1.0'
    config = run_config(Flags(backbone="s5", files=[file(tmp_path, text)]))
    assert (config.train.epochs, config.optim.lr) == (100, 1.0)


def test_an_unknown_recipe_is_bad_input():
    with pytest.raises(
        PluginError, match="there is no recipe 'pendulum/papr'\n  did you mean 'pendulum/paper'"
    ):
        run_config(given(recipe="papr"))


def test_a_resolved_file_stands_alone(tmp_path, shipped):
    """Its knobs that are None stand commented out, so a recipe below it would show through."""
    shipped(pendulum__default={"train": {"steps": 7}})
    config = run_config(given(epochs=3))
    assert config.train.steps is None
    path = file(tmp_path, config.to_toml())
    assert run_config(Flags(files=[path])) == config


def test_epochs_on_the_command_line_win_over_steps_from_elsewhere(tmp_path, shipped):
    shipped(pendulum__default={"train": {"steps": 7}})
    assert run_config(BASE).train.steps == 7
    assert run_config(given(epochs=3)).train.steps is None
    assert run_config(given(files=[file(tmp_path, "train.epochs = 2")], steps=9)).train.steps == 9
    with pytest.raises(UserError, match="--epochs and --steps"):
        run_config(given(epochs=3, steps=9))


def test_flags_reach_their_places():
    config = run_config(given(addons=["smr"], seed=5, device="cpu", steps=2))
    assert config.label() == "s5+smr"
    assert (config.seed, config.train.device, config.train.steps) == (5, "cpu", 2)


def test_flags_replace_the_add_ons_of_a_file(tmp_path):
    path = file(tmp_path, "[addons.smr]\ntau = 7")
    assert run_config(given(files=[path])).addons[0].config.tau == 7
    assert run_config(given(files=[path], addons=["ssm-smr/smr"])).addons[0].config.tau == 7
    assert run_config(given(addons=["smr"], sets=["addons.smr.tau=3"])).addons[0].config.tau == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "backbone.stat_size=4",
            "backbone ssm-core/s5 has no setting 'backbone.stat_size'\n  did you mean 'state_size'",
        ),
        ("addons.smr.tua=4", "addon ssm-smr/smr has no setting 'addons.smr.tua'\n  did you mean 'tau'"),
        (
            "task.sample_rat=1",
            "task ssm-data/pendulum has no setting 'task.sample_rat'\n  did you mean 'sample_rate'",
        ),
        ("optim.lrr=1", "the run has no setting 'optim.lrr'\n  did you mean 'lr'"),
        ("optm.lr=1", "there is no section 'optm'\n  did you mean 'optim'"),
        ("optim.lr=fast", "'optim.lr' of the run: .*given: 'fast'"),
        ("addons.serpent.k=1", "'serpent' are given, but it is not chosen\n  add --addon serpent"),
        ("addons=smr", "'addons' is a table of settings, not 'smr'"),
        ("lr", "--set takes PATH=VALUE, not 'lr'"),
    ],
)
def test_misspelt_settings_name_their_owner(assignment, message):
    with pytest.raises(ConfigError, match=message):
        run_config(given(addons=["smr"], sets=[assignment]))


def test_a_run_needs_backbone_and_task():
    with pytest.raises(ConfigError, match=r"no backbone is chosen\n  add --backbone NAME; installed: .*s5"):
        assemble.complete_run(run_config(Flags(task="pendulum")))
    with pytest.raises(ConfigError, match=r"no task is chosen\n  add --task NAME; installed: .*pendulum"):
        assemble.complete_run(run_config(Flags(backbone="s5")))


def test_a_run_folder_is_a_configuration(make_run):
    run = make_run(seed=9, optim={"lr": 0.5})
    config = run_config(Flags(files=[run.path]))
    assert (config.seed, config.optim.lr) == (9, 0.5)
    assert config == run.config()


def test_a_file_that_holds_no_settings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds a list, not settings"):
        assemble.read(file(tmp_path, "[1]", "list.json"))
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        assemble.read(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "expected"), [("0-4", [0, 1, 2, 3, 4]), ("0,2,5", [0, 2, 5]), ("0-1,7", [0, 1, 7]), ("3", [3])]
)
def test_seeds(text, expected):
    assert assemble.seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "4-0", "1,1", "0-2,1", "-1", "1-", "1.5"])
def test_wrong_seeds_are_refused(text):
    with pytest.raises(UserError, match="--seeds takes numbers"):
        assemble.seeds(text)


def test_set_reads_toml_values():
    assert parse_set(["a.b=1e-3", "a.c=text", "a.d=true"]) == {"a": {"b": 1e-3, "c": "text", "d": True}}
