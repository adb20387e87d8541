"""Runs of the same settings that are not the same: own classes, other data; and folders with something damaged."""

from __future__ import annotations

import json

import pytest

from ssm_core.run.folder import write_json
from ssm_eval.compare import compare_runs
from ssm_eval.results import read_result

SIZE = (2 * 3 + 3) + 2 * (9 + 3) + (3 * 4 + 4) + 6
"""Scalars in the checkpoints that the fixture writes."""


def note(run, *, train="", test="", **made):
    """Write what training notes of a run: what it made, and fingerprints of its data."""
    if made:
        write_json(run.path / "env.json", {"python": "3", "made": made})
    told = {"train": train, "test": test}
    run.write_data({name: {"provenance": "p", "fingerprint": f} if f else None for name, f in told.items()})
    return run


def labels(runs):
    return {row["label"]: row["seeds"] for row in compare_runs(runs).rows}


def test_own_modules_of_the_same_settings_are_no_seeds_of_one(make_run):
    models = ["mine.Narrow", "mine.Narrow", "mine.Deep"]
    runs = [note(make_run(seed=k), task="mine.Sums", model=m, shapes="ab") for k, m in enumerate(models)]
    assert labels(runs) == {"toynet model=mine.Narrow": [0, 1], "toynet model=mine.Deep": [2]}


def test_one_class_in_two_sizes_is_two_settings(make_run):
    runs = [note(make_run(seed=k), model="mine.Net", shapes=h * 12) for k, h in enumerate("abb")]
    assert labels(runs) == {"toynet shapes=aaaaaaaa": [0], "toynet shapes=bbbbbbbb": [1, 2]}


def test_other_data_is_another_setting(make_run):
    runs = [note(make_run(seed=k), train="x", test=f * 64) for k, f in enumerate("cdc")]
    assert labels(runs) == {"toynet data.test=cccccccc": [0, 2], "toynet data.test=dddddddd": [1]}


def test_what_was_not_noted_parts_nothing(make_run):
    runs = [make_run(), note(make_run(seed=1), train="x", model="mine.Net"), note(make_run(seed=2))]
    assert labels(runs) == {"toynet": [0, 1, 2]}
    runs.append(note(make_run(seed=3), train="y", model="mine.Net"))
    assert labels(runs) == {
        "toynet data.train=unknown": [0, 2],
        "toynet data.train=x": [1],
        "toynet data.train=y": [3],
    }


def test_data_that_differs_with_the_settings_is_not_told_twice(make_run):
    runs = [note(make_run(), test="c"), note(make_run({"task": {"scale": 2.0}}), test="d")]
    assert list(labels(runs)) == ["toynet task.scale=1.0", "toynet task.scale=2.0"]


def test_what_is_not_set_is_not_in_a_label(make_run):
    runs = [make_run(), make_run({"train": {"steps": 7}})]
    assert list(labels(runs)) == ["toynet", "toynet train.steps=7"]


def test_parameters_are_those_the_run_has_noted(make_run):
    assert compare_runs([note(make_run(), parameters=12)]).rows[0]["parameters"] == 12
    assert compare_runs([note(make_run(seed=1), model="mine.Net")]).rows[0]["parameters"] == SIZE


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"\xff" * 20)])
def test_a_lost_checkpoint_loses_no_result(make_run, damage):
    runs = [make_run(), make_run({"addons": {"toygate": {}}})]
    damage(runs[0].checkpoint() / "model.safetensors")
    one, other = compare_runs(runs).rows
    assert (one["mean"], one["parameters"]) == (0.25, None)
    assert (other["mean"], other["parameters"]) == (0.25, SIZE)


@pytest.mark.parametrize("text", ["{}", "[]", '{"step": '])
def test_a_damaged_pointer_or_status_does_not_keep_others_from_being_compared(make_run, text):
    runs = [make_run(), make_run(seed=1), make_run(seed=2)]
    (runs[1].path / "best.json").write_text(text)
    (runs[2].path / "status.json").write_text(text)
    found = compare_runs(runs)
    assert found.rows[0]["values"] == [0.25, None, 0.25]
    assert any(str(runs[1].path) in said and "no test result" in said for said in found.notes)


def test_a_stored_value_that_is_not_finite_is_none(make_run):
    run = make_run(test=None)
    (run.path / "eval").mkdir()
    write_json(run.path / "eval" / "test@8.json", {"metrics": {"mse": float("nan")}})
    assert json.loads((run.path / "eval" / "test@8.json").read_text())["metrics"] == {"mse": None}
    assert read_result(run).value is None
