from __future__ import annotations

import gzip
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data import cache
from ssm_data.digits import data
from ssm_data.digits.spec import IMAGES, DigitsConfig

SPLITS = ("train", "validation", "test")


class TestDefault(TaskSuite):
    task = "digits"


class TestLast(TaskSuite):
    task = "digits"
    config: ClassVar = {"pooling": "last", "seed": 3, "n_test": 10}


def load_all(**given: object) -> dict[str, data.DigitsSplit]:
    return registry.build_task("digits", given).splits()


@pytest.fixture(scope="module")
def everything() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def test_splits_are_a_partition_of_the_images(everything) -> None:
    values, labels = everything
    splits = load_all()
    assert [len(splits[name]) for name in SPLITS] == [1293, 144, 360]
    index = np.concatenate([splits[name].arrays["index"] for name in SPLITS])
    assert sorted(index.tolist()) == list(range(IMAGES))
    for split in splits.values():
        assert np.array_equal(split.arrays["inputs"], values[split.arrays["index"]])
        assert np.array_equal(split.arrays["targets"], labels[split.arrays["index"]])
        assert set(split.arrays["targets"].tolist()) == set(range(10))


def test_the_draw_follows_the_seed_and_test_images_only_it() -> None:
    few, more, other = load_all(), load_all(n_validation=300), load_all(seed=1)
    assert np.array_equal(few["test"].arrays["index"], more["test"].arrays["index"])
    assert (len(more["train"]), len(more["validation"])) == (1137, 300)
    assert not np.array_equal(few["test"].arrays["index"], other["test"].arrays["index"])


def test_rows_and_batches() -> None:
    task = registry.build_task("digits", {})
    rows = [task.splits()["test"][i] for i in range(3)]
    assert {k: (v.dtype.name, v.shape) for k, v in rows[0].items()} == {
        "inputs": ("uint8", (64,)),
        "targets": ("int64", ()),
    }
    batch = task.collate(rows)
    assert (batch.inputs.dtype, batch.inputs.shape) == (torch.uint8, (3, 64))
    assert batch.mask_bl is None
    assert (task.max_length, task.classes, task.needs.causal) == (64, 10, False)


def test_the_encoder_sees_standardised_values() -> None:
    task = registry.build_task("digits", {})
    train = task.splits()["train"]
    encoder = task.encoder(1)
    torch.nn.init.ones_(encoder.linear.weight)
    torch.nn.init.zeros_(encoder.linear.bias)
    x = encoder(task.collate([train[i] for i in range(len(train))])).detach()
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float(x.std()) == pytest.approx(1, abs=0.02)


def test_an_official_copy_is_called_one(everything) -> None:
    values, _ = everything
    assert cache.content_hash(values.astype(np.uint8)) == data.KNOWN
    assert "official" in load_all()["train"].provenance
    assert "as expected" in load_all()["train"].provenance


def test_another_copy_is_told(everything, monkeypatch, caplog, tmp_path) -> None:
    values, labels = everything
    changed = values.copy()
    changed[0, 0] = 16 - changed[0, 0]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (changed, labels))
    assert load_all(cache=str(tmp_path / "a"))["test"].provenance.endswith(
        "DIFFERS from the known ones in images"
    )
    assert "other images than" in caplog.text
    swapped = labels.copy()
    swapped[[0, 1]] = labels[[1, 0]]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (values, swapped))
    assert load_all(cache=str(tmp_path / "b"))["test"].provenance.endswith(
        "DIFFERS from the known ones in labels"
    )
    assert "other labels than" in caplog.text


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ((7, 3), 17, "row 8"),
        ((7, 3), -1, "row 8"),
        ((9, 63), np.nan, "row 10"),
        ((9, 63), 0.5, "row 10"),
        ((11,), 10, "row 12: .* with label 10"),
        ((11,), np.nan, "row 12"),
    ],
)
def test_values_that_make_no_sense_are_told_and_leave_nothing(
    everything, monkeypatch, tmp_path, where, value, reason
) -> None:
    values, labels = (a.astype(float).copy() for a in everything)
    (values if len(where) == 2 else labels)[where] = value
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (values, labels))
    with pytest.raises(UserError, match=f"digits.csv.gz, {reason}"):
        load_all(cache=str(tmp_path))
    assert not list(tmp_path.rglob("*.npy"))


def test_missing_rows_are_told(everything, monkeypatch, tmp_path) -> None:
    values, labels = everything
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (values[:5], labels[:5]))
    with pytest.raises(UserError, match=r"\(5, 64\)"):
        load_all(cache=str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "text", "columns", "empty", "missing"])
def test_a_damaged_file_is_told(damage: str, monkeypatch, tmp_path: Path) -> None:
    import sklearn.datasets._base as base

    whole = (Path(base.__file__).parent / "data" / "digits.csv.gz").read_bytes()
    lines = gzip.decompress(whole)
    content = {
        "truncated": whole[: len(whole) // 2],
        "text": gzip.compress(b"a" + lines),
        "columns": gzip.compress(lines.replace(b",", b"", 1)),
        "empty": b"",
    }
    if damage != "missing":
        (tmp_path / "digits.csv.gz").write_bytes(content[damage])
    opened = base.resources.files
    monkeypatch.setattr(
        base.resources,
        "files",
        lambda module: tmp_path if module == base.DATA_MODULE else opened(module),
    )
    with pytest.raises(UserError, match=r"digits\.csv\.gz cannot be read|digits\.csv\.gz has"):
        load_all(cache=str(tmp_path / "cache"))
    assert not list(tmp_path.rglob("*.npy"))


def test_the_cache_needs_no_scikit_learn(monkeypatch, tmp_path) -> None:
    first = load_all(cache=str(tmp_path))["test"][0]["inputs"]

    def refuse(**_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("sklearn.datasets.load_digits", refuse)
    assert np.array_equal(load_all(cache=str(tmp_path))["test"][0]["inputs"], first)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"n_test": 0}, "at least one image"),
        ({"n_test": 1700}, "leave none"),
        ({"seed": -1}, "negative"),
        ({"pooling": "sum"}, "pooling"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("digits", given)


def test_every_knob_is_documented() -> None:
    assert set(field_docs(DigitsConfig)) == {knob["name"] for knob in knobs(DigitsConfig)}


def test_load_by_name() -> None:
    assert len(ssm_data.load("digits", "validation")) == 144
