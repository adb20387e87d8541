"""The bench of feeding: what it compares, what it watches, and what it says of tasks that it cannot read."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys

import pytest
import toy_runs

from ssm_core.plugin import registry
from ssm_core.plugin.config import check
from ssm_core.plugin.errors import ConfigError, PluginError, UserError
from ssm_core.protocols import Batch
from ssm_train.bench.measure import measure, reading, recipe_of
from ssm_train.bench.spec import SPEC, FeedingConfig
from ssm_train.bench.waiting import wait_share
from ssm_train.setup import task_of

# A machine of one core runs two workers as well, and torch says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

RECIPE = """
summary = "sums"
[task]
name = "toy"
[model]
d_model = 4
n_layers = 1
[train]
epochs = 1
batch_size = 4
accumulate = 2
threads = 1
[backbones.s5]
state_size = 4
"""


@pytest.fixture(autouse=True)
def shipped(installed, tmp_path, monkeypatch):
    """Put in a default recipe of the toy, as an installer would."""
    site = tmp_path / "site"
    info, folder = site / "toyrecipes-1.0.dist-info", site / "toyrecipes" / "toy"
    info.mkdir()
    folder.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyrecipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ssm.recipes]\ntoy = toyrecipes\n")
    (folder.parent / "__init__.py").touch()
    (folder / "default.toml").write_text(RECIPE)
    importlib.invalidate_caches()
    registry.found.cache_clear()
    yield
    sys.modules.pop("toyrecipes", None)
    assert multiprocessing.active_children() == []


def small(**knobs):
    return FeedingConfig(**{"tasks": "toy", "seconds": 0.01, "repeats": 2, "share": "", **knobs})


def test_batches_are_read_with_workers_and_without():
    result = measure(small())
    (row,) = result.rows
    assert (row["task"], row["batch"], row["same"], row["note"]) == ("toy", "2 x 7 x 3 float32", True, "")
    assert min(row["batches_per_s_0"], row["batches_per_s_2"]) > 0
    best = max(row["batches_per_s_0"], row["batches_per_s_2"])
    assert row["rows_per_s"] == pytest.approx(2 * best, abs=1)  # slices of two rows each
    assert row["mb_per_s"] == pytest.approx(2 * best * 7 * (3 + 1) * 4 / 1e6, abs=0.01)
    assert row["wait_s5_0"] is None
    assert result.figures == {}


def test_batches_that_differ_have_no_time(monkeypatch):
    read = toy_runs.Toy.collate

    def by_process(self, rows) -> Batch:
        batch = read(self, rows)
        return Batch(batch.inputs + os.getpid(), batch.targets)

    monkeypatch.setattr(toy_runs.Toy, "collate", by_process)
    (row,) = measure(small()).rows
    assert row["same"] is False
    assert row["batches_per_s_0"] > 0
    assert row["batches_per_s_2"] is None


def test_what_is_read_goes_on_over_epochs():
    run = recipe_of("toy")
    task = task_of(run)
    with reading(run, task, task.splits()["train"], 1) as source:
        assert source.checked()
        for _ in range(50):  # an epoch has ten batches of two slices
            source.next()
        assert source.checked()


def test_waiting_is_watched_in_a_run_without_evaluation(monkeypatch):
    watched = []
    monkeypatch.setattr("ssm_train.bench.waiting.fit", _noting(watched))
    result = measure(small(share="toy", backbones="s5,nothing", steps=15, workers="0"))
    (row,) = result.rows
    assert 0 < row["wait_s5_0"] < 1
    assert row["wait_nothing_0"] is None
    assert row["note"] == "nothing: there is no backbone 'nothing'"
    assert result.figures == {"largest share of waiting, 0 workers": row["wait_s5_0"]}
    assert [(steps, splits) for steps, splits, _ in watched] == [(2, {"train"}), (15, {"train"})]
    assert not any(path.exists() for _, _, path in watched), "the runs are thrown away"


def _noting(watched):
    from ssm_train.training import fit

    def noted(config, task, **where):
        path = fit(config, task, **where)
        watched.append((config.train.steps, set(task.splits()), path))
        return path

    return noted


def test_epochs_count_by_their_length(monkeypatch):
    told = [(10, 0.5), (15, 0.2)]
    rows = [{"name": "wait_share", "step": step, "value": value} for step, value in told]
    monkeypatch.setattr("ssm_train.bench.waiting.fit", lambda *config, **where: "")
    monkeypatch.setattr("ssm_train.bench.waiting.RunFolder", lambda path: _Folder([{"name": "loss"}, *rows]))
    run = recipe_of("toy", "s5")
    assert wait_share(run, task_of(run), 15) == pytest.approx((10 * 0.5 + 5 * 0.2) / 15)


class _Folder:
    def __init__(self, rows) -> None:
        self.rows = rows

    def metrics(self):
        return iter(self.rows)


def test_a_task_without_its_files_is_listed_and_an_unknown_one_refused(monkeypatch):
    def nowhere(self, progress=None):
        raise UserError("toy found no sums; it looked in\n    here", "make some")

    monkeypatch.setattr(toy_runs.Registered, "prepare", nowhere)
    (row,) = [row for row in measure(small(tasks="toy")).rows if row["task"] == "toy"]
    assert row["note"] == "needs its files: toy found no sums"
    assert row["batches_per_s_0"] is None
    with pytest.raises(PluginError, match="there is no task 'tay'"):
        measure(small(tasks="toy,tay"))


def test_own_settings_are_laid_over_the_recipe(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[task]\nname = "toy"\n[train]\naccumulate = 1\n')
    (row,) = measure(small(tasks=str(mine), share=str(mine), backbones="s5", steps=3, workers="0")).rows
    assert (row["task"], row["batch"], row["same"]) == ("mine.toml", "4 x 7 x 3 float32", True)
    assert 0 < row["wait_s5_0"] < 1
    mine.write_text("[train]\naccumulate = 1\n")
    with pytest.raises(ConfigError, match=r"mine\.toml names no task"):
        measure(small(tasks=str(mine)))
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        measure(small(tasks=str(tmp_path / "gone.toml")))


def test_all_tasks_with_a_recipe_are_taken_and_those_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("SSM_PLUGINS", "ssm-core,toy,toyrecipes")
    registry.found.cache_clear()
    assert [row["task"] for row in measure(small(tasks="", workers="0")).rows] == ["toy"]
    (tmp_path / "site" / "toyrecipes" / "toy" / "default.toml").rename(tmp_path / "other.toml")
    assert measure(small(tasks="", workers="0")).rows == []
    with pytest.raises(ConfigError, match="recipe called default for the task 'toy'"):
        measure(small())


@pytest.mark.parametrize("knobs", [{"workers": "two"}, {"workers": ""}, {"seconds": 0.0}, {"steps": 0}])
def test_knobs_are_checked(knobs):
    with pytest.raises(ConfigError, match="feeding"):
        check(FeedingConfig, knobs, "bench", f"bench {SPEC.name}")
