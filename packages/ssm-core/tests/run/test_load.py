from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ssm_core
from ssm_core.model import SequenceModel, build_for_task
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, write_json
from ssm_core.run.load import account, load_weights, start_from

pytestmark = pytest.mark.usefixtures("toys")

TREE: dict[str, Any] = {
    "backbone": {"name": "toy_backbone"},
    "addons": {"toy_scale": {"factor": 2.0}},
    "task": {"name": "toy_task"},
    "model": {"d_model": 4, "n_layers": 2, "dropout": 0.5},
}


@pytest.fixture
def run(tmp_path: Path, toys) -> tuple[RunFolder, SequenceModel]:
    config = RunConfig.from_tree(TREE)
    assert config.task is not None
    folder = RunFolder.create(tmp_path, config)
    model = build_for_task(config, registry.build_task("toy_task", {}))
    for step, name in ((1, "best"), (2, "latest")):
        checkpoint = folder.checkpoints / f"step-{step}"
        checkpoint.mkdir()
        with torch.no_grad():
            model.head.linear.bias.fill_(float(step))
        save_file(model.state_dict(), checkpoint / "model.safetensors")
        write_json(folder.path / f"{name}.json", {"step": step, "path": f"checkpoints/step-{step}"})
    return folder, model


def test_a_run_comes_back_as_model_and_configuration(run) -> None:
    folder, _ = run
    model, config = ssm_core.load(folder.path)
    assert config == RunConfig.from_tree(TREE)
    assert not model.training
    assert model.head.linear.bias.item() == 1
    assert ssm_core.load(folder.path, which="latest")[0].head.linear.bias.item() == 2


def test_loading_draws_no_random_numbers(run) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ssm_core.load(run[0].path)
    assert torch.rand(1) == expected


def test_a_loaded_model_computes_as_the_saved_one(run) -> None:
    folder, saved = run
    model, _ = ssm_core.load(folder.path, which="latest")
    rows = [model.task.splits()["test"][index] for index in range(3)]
    batch = model.task.collate(rows)
    assert torch.equal(model(batch).head, saved.eval()(batch).head)


def test_overrides_go_over_the_run_own_settings(run) -> None:
    folder, _ = run
    model, config = ssm_core.load(folder.path, overrides={"task": {"time": "ignored", "length": 20}})
    assert (config.task.config.time, model.task.max_length) == ("ignored", 20)
    with pytest.raises(ConfigError, match=r"task\.lenght"):
        ssm_core.load(folder.path, overrides={"task": {"lenght": 20}})


def test_weights_that_do_not_fit_are_named(run, tmp_path: Path) -> None:
    folder, model = run
    file = folder.checkpoint() / "model.safetensors"
    weights = load_file(file)
    wrong = tmp_path / "wrong.safetensors"
    missing = {name: value for name, value in weights.items() if name != "head.linear.bias"}
    for changed, message in (
        (missing, "lacks head.linear.bias"),
        ({**weights, "ghost": torch.ones(1)}, "has, unlike the model, ghost"),
        ({**weights, "head.linear.bias": torch.ones(3)}, "has in another shape head.linear.bias"),
    ):
        save_file(changed, wrong)
        with pytest.raises(UserError, match=message):
            load_weights(model, wrong)


def test_an_override_that_changes_the_model_is_blamed(run) -> None:
    folder, _ = run
    with pytest.raises(UserError) as told:
        ssm_core.load(folder.path, overrides={"task": {"length": 20}, "model": {"d_model": 6}})
    assert str(told.value).startswith(
        "with model.d_model=6, task.length=20 the model is not the one that was trained"
    )
    assert "leave out settings that change the model" in str(told.value)
    names = str(told.value).splitlines()[0].partition("in another shape ")[2].removesuffix(" ...").split(", ")
    assert len(names) == 3
    assert names == sorted(names)


def test_a_missing_or_damaged_weights_file_is_the_users_to_mend(run) -> None:
    folder, _ = run
    file = folder.checkpoint() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        ssm_core.load(folder.path)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        ssm_core.load(folder.path)


def test_a_run_of_ones_own_task_says_what_to_do(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, RunConfig.from_tree({"backbone": {"name": "s5"}}))
    with pytest.raises(UserError, match="one's own task or model"):
        ssm_core.load(folder.path)


def test_a_run_without_checkpoint_says_so(tmp_path: Path, toys) -> None:
    folder = RunFolder.create(tmp_path, RunConfig.from_tree(TREE))
    with pytest.raises(UserError, match="has no checkpoint"):
        ssm_core.load(folder.path)


def _model(*addons: str) -> SequenceModel:
    tree = {**TREE, "addons": {name: {} for name in addons}}
    return build_for_task(RunConfig.from_tree(tree), registry.build_task("toy_task", {}))


def test_add_ons_go_on_the_weights_of_a_run_without_them(tmp_path: Path) -> None:
    old, new = _model(), _model("toy_twice")
    save_file(old.state_dict(), tmp_path / "w.safetensors")
    own = {name: value.clone() for name, value in new.state_dict().items()}
    started = start_from(new, tmp_path / "w.safetensors")
    assert started == [f"stack.blocks.{i}.mixer.log_factor" for i in (0, 1)]
    found = new.state_dict()
    assert all(torch.equal(found[name], own[name]) for name in started)
    held = old.state_dict()
    assert len(found) == len(held) + 2
    for name in found.keys() - started:
        assert torch.equal(found[name], held[name.replace(".inner", "")])


def test_weights_that_are_there_and_cannot_be_read_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    for name, why in (("model.safetensors", "Is a directory"), ("other.safetensors", "No such file")):
        with pytest.raises(UserError, match=rf"cannot read the weights .*{name}: {why}"):
            load_weights(torch.nn.Linear(1, 1), tmp_path / name)


def test_the_account_names_every_new_parameter() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), torch.nn.Linear(2, 1, bias=False)
    )
    assert account(model, ["0.weight", "1.bias"]).startswith("8 new parameters: ")
    model = torch.nn.ModuleDict({"blocks": model, "scale": torch.nn.ParameterList([torch.ones(())])})
    names = ["blocks.0.weight", "blocks.1.weight", "blocks.2.weight", "blocks.0.bias", "scale.0"]
    assert account(model, names) == (
        "17 new parameters: blocks.{0,1}.weight (2 of 2 x 3), blocks.2.weight (1 of 1 x 2), "
        "blocks.0.bias (1 of 2), scale.0 (1 of 1)"
    )


def test_the_same_add_ons_start_from_all_weights(tmp_path: Path) -> None:
    old, new = _model("toy_scale", "toy_twice"), _model("toy_scale", "toy_twice")
    save_file(old.state_dict(), tmp_path / "w.safetensors")
    assert start_from(new, tmp_path / "w.safetensors") == []
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_parameters_that_could_be_of_either_add_on_are_refused(tmp_path: Path) -> None:
    save_file(_model("toy_scale").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="no telling which is whose"):
        start_from(_model("toy_scale", "toy_twice"), tmp_path / "w.safetensors")


def test_starting_from_another_model_is_refused(tmp_path: Path) -> None:
    save_file(_model("toy_scale").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"has, unlike the model, stack\.blocks\.0\.mixer\.log_factor"):
        start_from(_model(), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "lacking"),
    [
        pytest.param({"name": "s6", "conv_bias": False}, {"name": "s6"}, "mixer.inner.bias", id="s6, filter"),
        pytest.param({"name": "s6"}, {"name": "s6", "bias": True}, "mixer.in_proj.bias", id="s6, maps"),
    ],
)
@pytest.mark.parametrize("addons", [(), ("toy_twice",)])
def test_a_backbone_that_has_grown_a_weight_is_refused(tmp_path: Path, old, new, lacking, addons) -> None:
    def built(backbone: dict[str, Any], *names: str) -> SequenceModel:
        tree = {**TREE, "backbone": backbone, "addons": {name: {} for name in names}}
        return build_for_task(RunConfig.from_tree(tree), registry.build_task("toy_task", {}))

    save_file(built(old).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"lacks .*{lacking.split('.')[-1]}"):
        start_from(built(new, *addons), tmp_path / "w.safetensors")
