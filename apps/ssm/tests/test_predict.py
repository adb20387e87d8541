"""``ssm predict``: answers as .csv, .json and .npz."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssm_eval
from ssm_eval.prediction import Predictions


@pytest.fixture
def asked(stand_in) -> list[Any]:
    """Let a model say two classes; what it was asked."""
    seen: list[Any] = []

    def predict(run: Path, source: Path, **_: Any) -> Predictions:
        seen.append((str(run), str(source)))
        rows = [{"prediction": np.array([logits])} for logits in ([0.0, 0.0, 9.0], [800.0, 0.0, 0.0])]
        return Predictions("/runs/r", 7, str(source), ("one", "two, or more"), rows, True, ("a", "b", "c"))

    stand_in(ssm_eval, "predict_run", predict)
    return seen


def test_answers_are_lines_of_csv(ssm, asked):
    done = ssm("predict", "r", "--input", "rows.npz")
    assert done.code == 0
    assert asked == [("r", "rows.npz")]
    first, second = csv.DictReader(done.out.splitlines())
    assert (first["row"], first["class"]) == ("one", "c")
    assert second == {"row": "two, or more", "class": "a", "probability": "1.0"}
    assert "step 7, 2 rows of rows.npz" in done.err


def test_json_says_whose_answers_they_are(ssm, asked):
    said = ssm("predict", "r", "--input", "rows.npz", "--json").json()
    assert {name: said[name] for name in ("run", "step", "input", "n")} == {
        "run": "/runs/r",
        "step": 7,
        "input": "rows.npz",
        "n": 2,
    }
    assert [answer["class"] for answer in said["answers"]] == ["c", "a"]


def test_the_name_of_the_file_says_its_kind(ssm, asked, tmp_path):
    for kind in ("csv", "json", "npz"):
        out = tmp_path / "new" / f"answers.{kind}"
        assert ssm("predict", "r", "--input", "rows.npz", "-o", out).out == f"{out}\n"
    lines = (tmp_path / "new" / "answers.csv").read_text().splitlines()
    assert [lines[0], lines[2]] == ["row,class,probability", '"two, or more",a,1.0']
    assert json.loads((tmp_path / "new" / "answers.json").read_text())["n"] == 2
    with np.load(tmp_path / "new" / "answers.npz") as arrays:
        assert arrays["row"].tolist() == [0, 1]
        assert arrays["prediction"].shape == (2, 3)


def test_a_file_that_cannot_be_written_is_told(ssm, asked, tmp_path):
    done = ssm("predict", "r", "--input", "rows.npz", "-o", "answers.xlsx")
    assert done.code == 2
    assert "known: .csv, .json, .npz" in done.err
    assert not asked, "it is known before the model is asked"
    done = ssm("predict", "r", "--input", tmp_path / "rows.npz", "-o", tmp_path / "rows.npz")
    assert "is the file that is read" in done.err
    done = ssm("predict", "r", "--input", "rows.npz", "-o", "answers.json", "--json")
    assert "--json prints, and -o writes" in done.err
    assert not asked
    (tmp_path / "file").touch()
    done = ssm("predict", "r", "--input", "rows.npz", "-o", tmp_path / "file" / "answers.csv")
    assert done.code == 2
    assert "cannot write" in done.err


def test_a_folder_that_is_no_run_is_told(ssm, tmp_path):
    done = ssm("predict", tmp_path, "--input", "rows.npz")
    assert done.code == 2
    assert str(tmp_path) in done.err
