"""Rows of metrics.jsonl, one JSON value a line."""

from __future__ import annotations

import json
import math

import pytest

from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_train.record import Recorder


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null_in_the_file_and_not_a_number_when_read(tmp_path, value):
    run = RunFolder.create(tmp_path, RunConfig.from_tree({}))
    recorder = Recorder(run)
    recorder.metrics(3, 0, "train", {"loss": value, "lr": 0.5})
    recorder.close()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in run.metrics_file.read_text().splitlines()]
    assert [row["value"] for row in rows] == [None, 0.5]
    loss, rate = run.metrics()
    assert math.isnan(loss["value"])
    assert rate["value"] == 0.5
