"""What is checked before the first step rather than after the first epoch, or after the last."""

from __future__ import annotations

import pytest
from toy_runs import Rows, Toy, module, settings

from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.run.config import RunConfig
from ssm_train import fit, fit_seeds


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": ("msee",), "primary": ("loss", "min")}, "Toy asks for the metric 'msee'"),
        ({"primary": ("mae", "min")}, "names 'mae', which is not among its metrics"),
        ({"primary": ("mse", "minimum")}, "says 'minimum' of mse\n.*\"min\""),
    ],
)
def test_metrics_that_cannot_be_are_told_before_training(tmp_path, wrong, message):
    task = Toy()
    for name, value in wrong.items():
        setattr(task, name, value)
    with pytest.raises(ConfigError, match=message):
        fit(settings(epochs=1), task, module(), out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_empty_split_is_told_before_training(tmp_path, split):
    task = Toy()
    task.data[split] = Rows(0, 1)
    with pytest.raises(ConfigError, match=f"the {split} split of Toy has no rows"):
        fit(settings(epochs=1), task, module(), out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


class Costly(Toy):
    def prepare(self, progress=None):
        raise AssertionError("made the data first")


def test_a_folder_that_cannot_be_is_told_before_the_data(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UserError, match=r"cannot make a run folder under .* is no folder\n.*--out"):
            fit(settings(), Costly(), module(), out=out, quiet=True)


def test_so_it_is_for_several_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("ssm_train.seeds.task_of", lambda config: Costly())
    (tmp_path / "file").write_text("")
    tree = {"backbone": {"name": "s5"}, "task": {"name": "sine"}, "train": {"device": "cpu"}}
    with pytest.raises(UserError, match="is no folder"):
        fit_seeds(RunConfig.from_tree(tree), [0, 1], out=tmp_path / "file", quiet=True)
