"""Which evaluations of a run are results of a study."""

from __future__ import annotations

import math

import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, write_json
from ssm_train.study import child
from ssm_train.study.folder import measured, rank


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path, RunConfig.from_tree({}))
    (run.path / "eval").mkdir()
    write_json(run.path / "best.json", {"step": 3, "path": "checkpoints/x", "metric": "mse"})
    return run


def stored(run, **more):
    report = {"step": 3, "split": "test", "overrides": {}, "metrics": {"mse": 1.5}, **more}
    write_json(run.path / "eval" / "test@3-abc.json", report)


def test_a_value_that_is_not_finite_is_a_measured_one(run):
    stored(run, metrics={"mse": math.inf, "nll": 0.5})
    found = measured(run, {})
    assert math.isnan(found["mse"])
    assert found["nll"] == 0.5


def test_a_result_on_other_data_is_none_of_the_study(run):
    stored(run, other_data=["test"])
    assert measured(run, {}) is None
    stored(run, other_data=[])
    assert measured(run, {}) == {"mse": 1.5}


def test_a_damaged_status_is_none(run):
    (run.path / "status.json").write_text("")
    write_json(run.path / "latest.json", {"step": 3, "path": "checkpoints/x"})
    assert rank(run) == 1


def test_what_cannot_be_kept_is_told_as_an_error(run, monkeypatch):
    answer = {"notes": ["the result is not kept: full"]}
    monkeypatch.setattr("ssm_eval.evaluation.evaluate_run", lambda *_, **__: answer)
    with pytest.raises(UserError, match="cannot be measured: the result is not kept: full"):
        child._measure(run.path, [{}], "cpu")
