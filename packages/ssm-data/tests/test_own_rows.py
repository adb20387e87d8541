"""Files of one's own as the tasks read them for ``ssm predict``: rows like those of the splits, without targets."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Output
from ssm_data.series.goals import Scaled
from ssm_data.ts import read as reader

HEAD = "@timestamps false\n@classLabel true no yes\n@data\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path / "cache"))


def table(path: Path, columns: str, *rows: str) -> Path:
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Any:
    """A task on a table of four series, of two elements each, with columns in an order of their own."""
    rows = [f"s{i},{t},{10 * i + t},{-i},{i + t},calm" for i in range(4) for t in (0, 1.5)]
    path = table(tmp_path / "train.csv", "id,time,b,a,target,part", *rows)
    knobs = {"path": str(path), "value_columns": ["b", "a"], "validation": 0.25, "test": 0.25}
    return registry.build_task("irregular-csv", knobs)


def test_a_table_needs_no_targets_and_its_columns_are_told_by_name(csv: Any, tmp_path: Path) -> None:
    new = table(tmp_path / "new.csv", "a,time,other,id,b", "1,7,x,one,2", "3,9,x,one,4", "5,1,x,two,6")
    one, two = csv.read(new)
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["inputs"].tolist() == [[2, 1], [4, 3]]
    assert two["inputs"].tolist() == [[6, 5]]
    assert one["time_points"].tolist() == [7, 9]
    batch = csv.collate([csv.question(one), csv.question(two)])
    assert batch.extra["asked"].tolist() == [[[True], [True]], [[True], [False]]]  # the rest is padding


def test_a_table_that_lacks_a_column_is_told(csv: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: there is no column 'b'"):
        csv.read(table(tmp_path / "new.csv", "id,time,a", "one,7,1"))


def test_dates_in_the_place_of_numbers_are_told(csv: Any, tmp_path: Path) -> None:
    new = table(tmp_path / "new.csv", "id,time,a,b", "one,2026-01-01,1,2")
    with pytest.raises(
        UserError, match=r"new\.csv: time holds dates, and the model has learned from numbers"
    ):
        csv.read(new)


def test_a_value_that_no_model_has_learned_to_miss_is_told(csv: Any, tmp_path: Path) -> None:
    (row,) = csv.read(table(tmp_path / "new.csv", "id,time,a,b", "one,7,1,", "one,9,3,4"))
    with pytest.raises(UserError, match="a value of b is missing, and none"):
        csv.question(row)


def ts(root: Path, *test: str, begin: str = HEAD) -> Any:
    folder = root / "Mine"
    folder.mkdir()
    (folder / "Mine_TRAIN.ts").write_text(begin + "1,2:3,4:no\n5,6,7:8,9,1:yes\n" * 3)
    (folder / "Mine_TEST.ts").write_text(begin + "\n".join(test or ("1,2:3,4:no",)) + "\n")
    knobs = {"root": str(root), "dataset": "Mine", "validation": "test", "time": "ignored"}
    return registry.build_task("ts", knobs)


def test_series_of_another_file_keep_their_lines_as_names(tmp_path: Path) -> None:
    task = ts(tmp_path)
    (tmp_path / "new.ts").write_text(HEAD + "1,2,3:4,5,6:no\n7:8:yes\n")
    first, second = task.read(tmp_path / "new.ts")
    assert first["inputs"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert second["name"] == "line 5"
    assert "targets" not in first
    assert task.labels == ("no", "yes")
    assert task.collate([task.question(first)]).targets.tolist() == [0]


def test_labels_are_not_looked_at_and_need_not_be_there(tmp_path: Path) -> None:
    task = ts(tmp_path)
    (tmp_path / "new.ts").write_text(HEAD + "1,2,3:4,5,6:maybe\n")
    (tmp_path / "bare.ts").write_text("@timestamps false\n@classLabel false\n@data\n1,2,3:4,5,6\n")
    for name in ("new.ts", "bare.ts"):
        (row,) = task.read(tmp_path / name)
        assert row["inputs"].tolist() == [[1, 4], [2, 5], [3, 6]]
    with pytest.raises(UserError, match="has to say one of '@classLabel true NAMES' and '@targetLabel true'"):
        reader.read(tmp_path / "bare.ts")


def test_series_of_another_kind_are_told(tmp_path: Path) -> None:
    task = ts(tmp_path)
    (tmp_path / "new.ts").write_text(HEAD + "1,2,3:no\n")
    with pytest.raises(
        UserError, match="line 4: 1 channels without times; the model has learned from 2 without"
    ):
        task.read(tmp_path / "new.ts")


def language(tmp_path: Path, **knobs: Any) -> Any:
    (tmp_path / "corpus.txt").write_text("a line of text\n" * 40)
    return registry.build_task("text-lm", {"path": str(tmp_path / "corpus.txt"), "length": 8, **knobs})


@pytest.mark.parametrize("reset", [False, True])
def test_a_text_is_read_in_rows_that_cover_it(tmp_path: Path, reset: bool) -> None:
    task = language(tmp_path, reset=reset)
    text = b"Twenty-one bytes here"
    (tmp_path / "new.txt.gz").write_bytes(gzip.compress(text))
    rows = task.read(tmp_path / "new.txt.gz")
    assert [len(row["inputs"]) for row in rows] == [8, 8, 4]
    assert bytes(np.concatenate([row["inputs"] for row in rows])) == text[:-1]
    assert bytes(np.concatenate([row["targets"] for row in rows]).astype(np.uint8)) == text[1:]
    batch = task.collate([task.question(rows[0])])
    assert batch.targets.tolist() == [list(text[1:9])]
    assert (batch.reset_bl is not None) == reset
    assert not reset or batch.reset_bl.tolist() == [[True] + 7 * [False]]


def test_ids_alone_ask_for_what_follows_each(tmp_path: Path) -> None:
    asked = language(tmp_path).question({"inputs": np.frombuffer(b"abc", np.uint8)})
    assert asked["targets"].tolist() == [98, 99, -100]


def test_a_text_without_anything_to_foretell_is_told(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a")
    with pytest.raises(UserError, match="fewer than two tokens"):
        language(tmp_path).read(tmp_path / "new.txt")


def test_several_numbers_of_an_element_follow_each_other(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{t},{i},{i + t}" for i in range(4) for t in range(3)]
    path = table(tmp_path / "train.csv", "id,time,a,sum,difference", *rows)
    knobs = {"path": str(path), "target_columns": ["sum", "difference"], "validation": 0.25, "test": 0.25}
    task = registry.build_task("irregular-csv", knobs)
    (row,) = task.read(table(tmp_path / "new.csv", "id,time,a", "x,0,0", "x,1,1"))
    batch = task.collate([task.question(row)])
    value = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    found = task.predictions(Output(Scaled(value, torch.ones(2)), ()), batch)
    assert found["prediction"].tolist() == [1, 2, 3, 4]
    assert task.labels == ("sum", "difference")
