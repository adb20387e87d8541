"""Evaluating a run that goes on meanwhile, on other data, in a folder that cannot be written."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import write_json
from ssm_eval import evaluation, trained
from ssm_eval.evaluation import evaluate_run
from ssm_eval.results import read_result


@pytest.fixture
def run(make_run):
    """A run whose two checkpoints, of steps 8 (best) and 12, have different weights."""
    run = make_run()
    file = run.checkpoint("latest") / "model.safetensors"
    save_file({name: 2 * value for name, value in load_file(file).items()}, file)
    return run


def moving(monkeypatch, run, *, before: bool) -> None:
    """Let training find a better checkpoint, and delete the old one, while the first evaluation reads the weights."""
    real, left = trained.load, [True]

    def load(*args, **options):
        loaded = None if before else real(*args, **options)
        if left and left.pop():
            old = run.checkpoint("best")
            shutil.copy(run.path / "latest.json", run.path / "best.json")
            shutil.rmtree(old)
            if before:
                raise UserError(f"cannot read {old}")  # as it was when it had asked for the pointer already
        return loaded or real(*args, **options)

    monkeypatch.setattr(trained, "load", load)


@pytest.mark.parametrize("before", [True, False])
def test_step_and_numbers_are_of_one_checkpoint(monkeypatch, run, before):
    first, last = evaluate_run(run.path), evaluate_run(run.path, which="latest")
    assert first["metrics"] != last["metrics"]
    moving(monkeypatch, run, before=before)
    found = evaluate_run(run.path)
    assert (found["step"], found["metrics"]) == (12, last["metrics"])
    assert json.loads((run.path / "eval" / "test@8.json").read_text()) == first


def test_weights_that_are_gone_for_good_are_told(run):
    (run.checkpoint() / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot read"):
        evaluate_run(run.path)


@pytest.fixture
def told(run, monkeypatch):
    """A run that keeps where its data came from, on data that can be changed."""
    import toy_eval_layers

    def split(name, of="a"):
        return {"provenance": f"{name} of {of}", "fingerprint": f"{of}{name}"}

    run.write_data({name: split(name) for name in ("train", "validation", "test")})
    made = toy_eval_layers.Toy.splits

    def change(**files):
        def splits(task):
            found = made(task)
            for name in ("train", "validation", "test"):
                vars(found[name]).update(split(name, files.get(name, "a")))
            return found

        monkeypatch.setattr(toy_eval_layers.Toy, "splits", splits)

    change()
    return run, change


def test_a_result_on_other_data_is_said_to_be_one_and_replaces_none(told):
    run, change = told
    same = evaluate_run(run.path)
    assert (same["data"]["fingerprint"], same["other_data"], same["notes"]) == ("atest", [], [])
    change(test="b")
    other = evaluate_run(run.path)
    assert (other["data"]["fingerprint"], other["other_data"]) == ("btest", ["test"])
    (note,) = other["notes"]
    assert "test split is not the data" in note
    assert "then: test of a; now: test of b" in note
    assert json.loads((run.path / "eval" / "test@8.json").read_text()) == same
    change(test="c")
    evaluate_run(run.path)
    assert len(list((run.path / "eval").glob("test@8-*.json"))) == 2


def test_other_data_is_never_taken_for_the_runs_test(told, make_run):
    run, change = told
    run.metrics_file.write_text("")
    change(train="b")  # what rows of the test become may hang on it
    assert evaluate_run(run.path)["other_data"] == ["train"]
    write_json(run.path / "best.json", {"step": 8, "path": "x", "metric": "mse"})
    assert read_result(run).value is None


def test_settings_of_the_task_may_ask_for_other_data(told):
    run, change = told
    change(test="b")
    found = evaluate_run(run.path, overrides={"task": {"scale": 2.0}})
    assert (found["other_data"], found["notes"], found["data"]["fingerprint"]) == ([], [], "btest")


def test_a_result_that_cannot_be_kept_is_not_lost(run):
    (run.path / "eval").write_text("a file in its place")
    found = evaluate_run(run.path)
    assert set(found["metrics"]) == {"loss", "mse", "nll"}
    (note,) = found["notes"]
    assert "the result is not kept: cannot make" in note


def test_a_disk_that_is_full_is_a_note_too(run, monkeypatch):
    def full(path, value):
        raise UserError(f"cannot write {path}: No space left", "free some space")

    monkeypatch.setattr(evaluation, "write_json", full)
    (note,) = evaluate_run(run.path)["notes"]
    assert note.endswith("No space left")
