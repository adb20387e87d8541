from __future__ import annotations

import json

import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import write_json
from ssm_eval.compare import compare_runs
from ssm_eval.results import read_result, seconds_per_epoch
from ssm_eval.stats import summarise

GATED = {"addons": {"toygate": {}}}


def test_seeds_of_one_setting_make_one_row(make_run):
    values = [0.25, 0.21, 0.3]
    runs = [make_run(seed=seed, test=value) for seed, value in enumerate(values)]
    found = compare_runs([runs[2], runs[0].path, str(runs[1].path), runs[0]])
    (row,) = found.rows
    summary = summarise(values)
    assert (row["label"], row["seeds"], row["values"], row["n"]) == ("toynet", [0, 1, 2], values, 3)
    assert [row[key] for key in ("mean", "std", "low", "high")] == [
        summary.mean,
        summary.std,
        summary.low,
        summary.high,
    ]
    assert row["parameters"] == (2 * 3 + 3) + 2 * (9 + 3) + (3 * 4 + 4) + 6
    assert (row["seconds_per_epoch"], row["epochs"]) == (10.0, 3)
    assert (row["published"], row["published_std"]) == (0.2, 0.01)
    assert row["runs"] == [str(run.path) for run in runs]
    assert found.title.startswith("test mse on toytask")
    assert found.notes == ()
    json.dumps(found.rows)


def test_labels_tell_settings_that_differ(make_run):
    runs = [
        make_run(),
        make_run({"task": {"time": "ignored"}}),
        make_run(GATED),
        make_run({"addons": {"toygate": {"width": 8}}}),
    ]
    found = compare_runs(runs)
    assert [row["label"] for row in found.rows] == [
        "toynet task.time=true",
        "toynet task.time=ignored",
        "toynet+toygate task.time=true addons.toygate.width=4",
        "toynet+toygate task.time=true addons.toygate.width=8",
    ]
    assert [row["published"] for row in found.rows] == [0.2, 0.3, 0.4, 0.4]


def test_settings_of_other_backbones_are_no_difference(make_run):
    found = compare_runs([make_run(), make_run(GATED)])
    assert [row["label"] for row in found.rows] == ["toynet", "toynet+toygate"]


def test_threads_and_recipe_make_no_other_setting(make_run):
    runs = [
        make_run(),
        make_run({"train": {"threads": 1}}, seed=1),
        make_run({"recipe": "toytask/default"}, seed=2),
    ]
    assert [row["seeds"] for row in compare_runs(runs).rows] == [[0, 1, 2]]


def test_another_version_is_another_setting(make_run):
    runs = [make_run(), make_run(seed=1)]
    tree = runs[1].config_tree()
    tree["plugins"]["toy-eval/toynet"] = "0.9"
    write_json(runs[1].path / "config.json", tree)
    labels = [row["label"] for row in compare_runs(runs).rows]
    assert labels == ["toynet plugins.toy-eval/toynet=1.0", "toynet plugins.toy-eval/toynet=0.9"]


def test_one_seed_shows_no_interval(make_run):
    found = compare_runs([make_run()])
    assert (found.rows[0]["mean"], found.rows[0]["std"], found.rows[0]["low"]) == (0.25, None, None)
    assert not {"std", "low", "high"} & set(found.columns)
    assert {"label", "seeds", "mean", "published"} <= set(found.columns)


def test_a_run_without_result_is_noted(make_run):
    runs = [make_run(), make_run(seed=1, test=None), make_run(seed=2, test=float("nan"))]
    found = compare_runs(runs)
    assert (found.rows[0]["values"], found.rows[0]["n"]) == ([0.25, None, None], 1)
    assert sum("has no test result" in note for note in found.notes) == 2


def test_a_repeated_seed_is_no_further_sample(make_run):
    runs = [make_run(test=0.25), make_run(test=0.35), make_run(test=None)]
    found = compare_runs(runs)
    assert found.rows[0]["seeds"] == [0]
    assert len(found.notes) == 2
    assert all("same settings and seed" in note for note in found.notes)


def test_stored_evaluation_serves_where_metrics_have_none(make_run):
    run = make_run(test=None)
    (run.path / "eval").mkdir()
    write_json(run.path / "eval" / "test@8.json", {"metrics": {"mse": 0.125}})
    write_json(run.path / "eval" / "test@12.json", {"metrics": {"mse": 0.5}})
    assert read_result(run).value == 0.125


def test_a_run_that_stopped_before_its_first_checkpoint(make_run):
    run = make_run(test=None)
    for name in ("best.json", "latest.json", "metrics.jsonl"):
        (run.path / name).unlink()
    (row,) = compare_runs([run]).rows
    assert (row["mean"], row["parameters"], row["seconds_per_epoch"], row["epochs"]) == (None, None, None, 0)


def test_different_tasks_are_refused(make_run):
    with pytest.raises(UserError, match="different tasks") as caught:
        compare_runs([make_run(), make_run({"task": {"name": "othertask"}})])
    assert "toy-eval/othertask" in str(caught.value)


def test_different_selecting_metrics_are_refused(make_run):
    runs = [make_run(), make_run(seed=1)]
    write_json(
        runs[1].path / "best.json", {**json.loads((runs[1].path / "best.json").read_text()), "metric": "nll"}
    )
    with pytest.raises(UserError, match="different metrics"):
        compare_runs(runs)


def test_nothing_and_no_run_are_refused(tmp_path):
    with pytest.raises(UserError, match="no runs to compare"):
        compare_runs([])
    with pytest.raises(UserError, match="not a run folder"):
        compare_runs([tmp_path])


def test_time_of_an_epoch_is_the_median_over_those_that_were_timed():
    def row(epoch, wall, split="validation"):
        return {"epoch": epoch, "wall": wall, "split": split, "name": "loss", "step": epoch, "value": 0.0}

    assert seconds_per_epoch([row(0, 50.0), row(1, 60.0), row(3, 82.0), row(4, 192.0)]) == 11.0
    assert seconds_per_epoch([row(0, 50.0), row(1, 5.0)]) is None
    assert seconds_per_epoch([row(0, 50.0), row(1, 60.0, "train")]) is None
