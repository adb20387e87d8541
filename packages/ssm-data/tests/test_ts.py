"""UEA and UCR files: what the format can hold, read back; what is wrong, named with file and line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.ts import read as reader

HEAD = {
    "problemName": "Mine",
    "timeStamps": "false",
    "missing": "false",
    "univariate": "false",
    "dimensions": "2",
    "equalLength": "false",
    "classLabel": "true up down",
}


def head(**changes: str) -> str:
    tags = {**HEAD, **changes}
    return "".join(f"@{tag} {words}\n" for tag, words in tags.items() if words) + "@data\n"


def series(seed: int, n: int, classes: tuple[str, ...] = ("up", "down"), missing: float = 0.0) -> list[str]:
    """Rows of two channels and unequal length."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        values = 100 + 5 * rng.standard_normal((2, rng.integers(2, 9)))
        cells = [["?" if rng.random() < missing else f"{v:.6g}" for v in channel] for channel in values]
        rows.append(":".join([*(",".join(channel) for channel in cells), classes[i % len(classes)]]))
    return rows


def stamped(seed: int, n: int) -> list[str]:
    """Rows whose channels have times of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        channels = []
        for _ in range(2):
            times = np.cumsum(rng.integers(1, 4, 6)) * 0.5
            channels.append(",".join(f"({t:g},{rng.standard_normal():.4f})" for t in times))
        rows.append(":".join([*channels, ("up", "down")[i % 2]]))
    return rows


def write(root: Path, name: str, begin: str, train: list[str], test: list[str]) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for part, rows in (("TRAIN", train), ("TEST", test)):
        text = "# a comment\n" + begin + "".join(f"{row}\n" for row in rows)
        (folder / f"{name}_{part}.ts").write_text(text)
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write(root, "Mine", head(), series(0, 20), series(1, 6))
    write(root, "Holes", head(missing="true"), series(2, 20, missing=0.2), series(3, 6, missing=0.2))
    write(root, "Stamped", head(timeStamps="true"), stamped(4, 20), stamped(5, 6))
    values = head(classLabel="", targetLabel="true")
    write(root, "Values", values, series(6, 20, ("0.5", "-2", "1e1")), series(7, 6, ("3",)))
    equal = head(univariate="true", dimensions="", equalLength="true", seriesLength="3")
    write(root, "Equal", equal, [f"{i},2,3:up" for i in range(4)] + ["4,5,6:down"] * 4, ["1,1,1:down"])
    return root


def make(root: Path, dataset: str = "Mine", **given: Any) -> Any:
    return registry.build_task("ts", {"root": str(root), "dataset": dataset, **given})


class Suite(TaskSuite):
    given: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _where(self, archive: Path) -> None:
        self.root = archive

    def make(self) -> Any:
        return make(self.root, **self.given)


class TestClasses(Suite):
    pass


class TestHoles(Suite):
    given: ClassVar = {"dataset": "Holes", "missing": "forward", "pooling": "last"}


class TestStamps(Suite):
    given: ClassVar = {"dataset": "Stamped", "time": "true"}


class TestAppended(Suite):
    given: ClassVar = {"dataset": "Stamped", "time": "appended", "validation": "test"}


class TestValues(Suite):
    given: ClassVar = {"dataset": "Values", "target": "value", "scaled": False}


class TestEqual(Suite):
    given: ClassVar = {"dataset": "Equal"}


del Suite


def test_rows_are_what_stands_in_the_files(archive: Path) -> None:
    splits = make(archive, validation="test").splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 20, "validation": 6, "test": 6}
    for row, text in zip(splits["train"], series(0, 20), strict=True):
        *channels, label = text.split(":")
        expected = np.array([[float(v) for v in channel.split(",")] for channel in channels], np.float32).T
        assert np.array_equal(row["inputs"], expected)
        assert row["inputs"].dtype == np.float32
        assert row["length"] == len(expected)
        assert ("up", "down")[row["targets"]] == label
    assert "validation is the test file" in splits["validation"].provenance


def test_validation_is_held_out_of_every_class_alike(archive: Path) -> None:
    splits = make(archive, validation=0.3).splits()
    assert [np.bincount(splits[name].arrays["targets"]).tolist() for name in ("train", "validation")] == [
        [7, 7],
        [3, 3],
    ]
    whole = make(archive, validation="test").splits()["train"]
    rows = [row["inputs"].tobytes() for name in ("train", "validation") for row in splits[name]]
    assert sorted(rows) == sorted(row["inputs"].tobytes() for row in whole)
    again, other = (make(archive, validation=0.3, seed=seed).splits()["train"] for seed in (0, 1))
    first = [row["inputs"].tobytes() for row in splits["train"]]
    assert [row["inputs"].tobytes() for row in again] == first
    assert [row["inputs"].tobytes() for row in other] != first


def test_values_are_scaled_by_the_training_split_alone(archive: Path) -> None:
    task = make(archive)
    train = task.splits()["train"].arrays["values"]
    encoder = task.encoder(2)
    assert encoder.mean.tolist() == pytest.approx(train.mean(0).tolist(), rel=1e-5)
    assert encoder.std.tolist() == pytest.approx(train.std(0).tolist(), rel=1e-4)
    assert make(archive, scaled=False).encoder(2).mean.tolist() == [0, 0]


def test_a_channel_that_does_not_change_is_left_alone(tmp_path: Path) -> None:
    rows = [f"7,7,7:{i},1,2:{('up', 'down')[i % 2]}" for i in range(8)]
    write(tmp_path, "Flat", head(), rows, rows)
    task = make(tmp_path, "Flat", validation="test")
    assert task.facts.std[0] == 1
    assert task.facts.mean[0] == 7


@pytest.mark.parametrize("how", ["mask", "forward"])
def test_what_is_missing_is_filled_and_marked(tmp_path: Path, how: str) -> None:
    rows = ["?,3,?,5:1,2,3,?:up", "1,1,1,1:1,1,1,1:down"]
    write(tmp_path, "Few", head(missing="true"), rows, rows)
    task = make(tmp_path, "Few", validation="test", missing=how, scaled=False)
    row = task.splits()["train"][0]
    assert np.isnan(row["inputs"]).tolist() == [[True, False], [False, False], [True, False], [False, True]]
    encoder = task.encoder(4)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.eye(4))
        encoder.linear.bias.zero_()
    found = encoder(task.collate([row]))[0].T.tolist()
    last = (3.0, 3.0) if how == "forward" else (0.0, 0.0)
    assert found[0] == [0, 3, last[0], 5]
    assert found[1] == [1, 2, 3, last[1]]
    assert found[2:] == [[0, 1, 0, 1], [1, 1, 1, 0]]


def test_without_missing_values_there_are_no_marks(archive: Path) -> None:
    assert make(archive).encoder(3).linear.in_features == 2
    assert make(archive, "Holes").encoder(3).linear.in_features == 4
    assert make(archive, "Stamped", time="appended").encoder(3).linear.in_features == 5


def test_channels_with_times_of_their_own_are_laid_together(tmp_path: Path) -> None:
    rows = [
        "(2010-03-24 09:00:00,1),(2010-03-24 09:00:10,2):(2010-03-24 09:00:10,5),(2010-03-24 09:01:00,6):up",
        "(0,1),(10,?),(30,2):(10,4):down",
    ]
    write(tmp_path, "Two", head(timeStamps="true"), rows, rows)
    task = make(tmp_path, "Two", validation="test", time="true")
    first, second = task.splits()["train"][0], task.splits()["train"][1]
    assert np.diff(first["time_points"]).tolist() == [10, 50]
    assert np.array_equal(first["inputs"], [[1, np.nan], [2, 5], [np.nan, 6]], equal_nan=True)
    assert np.array_equal(second["inputs"], [[1, np.nan], [np.nan, 4], [2, np.nan]], equal_nan=True)
    batch = task.collate([first, second])
    assert task.facts.unit == 15  # of 10, 50, 10, 20
    assert torch.allclose(batch.dt_bl, torch.tensor([[1, 10 / 15, 50 / 15], [1, 10 / 15, 20 / 15]]))
    assert task.needs.dt


def test_the_unit_of_a_trained_model_holds_on_other_data(archive: Path) -> None:
    task = make(archive, "Stamped", time="true")

    class Seen:
        encoder = task.encoder(4)

        @staticmethod
        def stack(x: torch.Tensor, **given: Any) -> tuple[torch.Tensor, Any]:
            Seen.dt = given["dt_bl"]
            return x, None

        @staticmethod
        def head(y: torch.Tensor, _: Any) -> torch.Tensor:
            return y

    batch = task.collate([task.splits()["test"][0]])
    task.run(Seen, batch)
    assert torch.equal(Seen.dt, batch.dt_bl)
    Seen.encoder.unit.mul_(2.0)  # as if trained where steps are twice as long
    task.run(Seen, batch)
    assert torch.allclose(Seen.dt[:, 1:], batch.dt_bl[:, 1:] / 2)
    assert (Seen.dt[:, 0] == 1).all()


def test_values_are_asked_for_in_their_own_units(archive: Path) -> None:
    task = make(archive, "Values", target="value")
    batch = task.collate([task.splits()["test"][i] for i in range(3)])
    assert batch.targets.tolist() == [[3.0]] * 3
    head = task.head(4)
    train = task.splits()["train"].arrays["targets"]
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.zero_()
    output = type("Out", (), {"head": head(torch.zeros(*batch.inputs.shape[:2], 4), batch)})
    assert output.head.value.flatten().tolist() == pytest.approx([float(train.mean())] * 3, rel=1e-5)
    with torch.no_grad():
        total, weight = task.loss(output, batch)
    expected = ((3 - train.mean()) / train.std()) ** 2
    assert float(total / weight) == pytest.approx(float(expected), rel=1e-4)
    assert (task.metrics, task.primary) == (("mse", "mae"), ("mse", "min"))


@pytest.mark.parametrize("label", ["1e39", "-1e39", "1_0", "nan", "inf", "?", ""])
def test_what_is_asked_for_is_as_strict_as_values(tmp_path: Path, label: str) -> None:
    rows = ["1,2:3,4:3", f"1,2:3,4:{label}"]
    write(tmp_path, "Two", head(classLabel="", targetLabel="true"), rows, rows)
    with pytest.raises(UserError, match=r"line \d+: the row ends with '.*', not with the number"):
        make(tmp_path, "Two", target="value").splits()


BAD = {
    "word": ("1,2:3,x:up", r"line 12: value 2 of channel 2 is 'x', not a finite number"),
    "infinite": ("1,inf:3,4:up", r"line 12: value 2 of channel 1 is 'inf'"),
    "huge": ("1,1e99:3,4:up", r"line 12: value 2 of channel 1 is '1e99'"),
    "empty cell": ("1,,2:3,4,5:up", r"line 12: value 2 of channel 1 is ''"),
    "few channels": ("1,2:up", r"line 12: 1 channels and a label, not 2"),
    "many channels": ("1:2:3:up", r"line 12: 3 channels and a label, not 2"),
    "ragged channels": ("1,2:3:up", r"line 12: channel 2 has 1 values, channel 1 has 2"),
    "label": ("1,2:3,4:left", r"line 12: the label 'left' is none of the head's: up, down"),
    "no label": ("1,2:3,4:", r"line 12: the label '' is none"),
    "binary": ("1,2:3,4:\udcff", r"line 12: byte 9 of the line is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("part", ["TRAIN", "TEST"])
def test_a_bad_row_is_named(tmp_path: Path, case: str, part: str) -> None:
    text, message = BAD[case]
    good = series(0, 4)
    folder = write(tmp_path, "Bad", head(), good, good)
    path = folder / f"Bad_{part}.ts"
    whole = "# a comment\n" + head() + "\n".join([*good[:2], text, *good[2:]])
    path.write_bytes(whole.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, "Bad").splits()
    assert str(path) in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


HEADS = {
    "no data": (head().replace("@data\n", ""), r"line 9: the head has not ended with @data"),
    "empty": ("", r"the file as a whole|line 2: the head has not ended"),
    "no series": (head() + "#", None),
    "boolean": (head(missing="maybe"), r"line 4: @missing is true or false, not 'maybe'"),
    "number": (head(dimensions="two"), r"line 6: @dimensions is a number above 0, not 'two'"),
    "one class": (head(classLabel="true up"), r"line 8: @classLabel true needs the names of two"),
    "class twice": (head(classLabel="true up up"), r"line 8: @classLabel true needs"),
    "no question": (head(classLabel="false"), r"one of '@classLabel true NAMES' and '@targetLabel true'"),
    "two questions": (head(targetLabel="true"), r"one of '@classLabel"),
    "contradiction": (head().replace("@data", "@missing true\n@data"), r"line 9: @missing is said twice"),
    "length": (
        head(equalLength="true", seriesLength="99"),
        r"line 11: the series has \d elements; the head says 99",
    ),
    "values": (head(classLabel="", targetLabel="true"), r"has numbers \(@targetLabel\), and target = class"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_bad_head_is_named(tmp_path: Path, case: str) -> None:
    begin, message = HEADS[case]
    rows = [] if message is None else series(0, 4)
    write(tmp_path, "Bad", begin, rows, rows)
    with pytest.raises(UserError, match=message or "it has no series below @data|line"):
        make(tmp_path, "Bad").splits()


def test_empty_files_and_no_files_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "Bad", head(), series(0, 4), series(0, 4))
    (folder / "Bad_TEST.ts").write_bytes(b"")
    with pytest.raises(UserError, match=r"Bad_TEST\.ts, .*the file is empty"):
        make(tmp_path, "Bad").splits()
    (folder / "Bad_TEST.ts").write_text(head())
    with pytest.raises(UserError, match=r"Bad_TEST\.ts, .*no series below @data"):
        make(tmp_path, "Bad").splits()
    with pytest.raises(UserError, match="found no data set Absent") as caught:
        make(tmp_path, "Absent").splits()
    for word in (str(tmp_path / "Absent"), "Absent_TRAIN.ts", "SSM_DATA_ROOT", "pip download"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("(1,2),(1,3):(0,1):up", "the times of channel 1 do not increase: '1' follows '1'"),
        ("(2,2),(1,3):(0,1):up", "'1' follows '2'"),
        ("(nan,2):(0,1):up", "the time 'nan' is not finite"),
        ("(soon,2):(0,1):up", "'soon' is neither a number nor an ISO date"),
        ("1,2:(0,1):up", r"channel 1 is not \(time,value\)"),
        ("(1,2:(0,1):up", "line 10"),
        ("(1,x):(0,1):up", "value 1 of channel 1 is 'x'"),
    ],
)
def test_bad_time_stamps_are_named(tmp_path: Path, row: str, message: str) -> None:
    write(tmp_path, "Bad", head(timeStamps="true"), [row], [row])
    with pytest.raises(UserError, match=rf"Bad_TRAIN\.ts, line 10: .*{message}|Bad_TRAIN\.ts, {message}"):
        make(tmp_path, "Bad", time="true").splits()


def test_what_does_not_go_together_is_told(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no time stamps, and time = true\n.*task\.time=ignored"):
        make(archive, time="true").splits()
    folder = write(tmp_path, "Bad", head(), series(0, 4), series(0, 4))
    (folder / "Bad_TEST.ts").write_text(head(classLabel="true down up") + series(0, 1)[0])
    with pytest.raises(
        UserError, match=r"Bad_TEST\.ts, .*classes down, up and 2 channels; the training file"
    ):
        make(tmp_path, "Bad").splits()
    for wrong in (
        {"dataset": "../x"},
        {"validation": 1.5},
        {"validation": "train"},
        {"seed": -1},
        {"source": "hub"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            registry.build_task("ts", wrong)


def test_changed_files_are_read_anew_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, "Mine", head(), series(0, 8), series(1, 4))
    before = make(tmp_path).splits()["train"].part
    assert make(tmp_path, time="ignored", pooling="max").splits()["train"].part == before
    with (folder / "Mine_TEST.ts").open("a") as file:
        file.write("1,2:3,4:up\n")
    after = make(tmp_path).splits()
    assert len(after["test"]) == 5
    monkeypatch.setattr(reader, "READER", -1)
    assert info("ts", root=str(tmp_path), dataset="Mine")["splits"]["test"]["size"] == 5


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("aeon") is None, reason="the package aeon is not installed")
@pytest.mark.parametrize(
    ("name", "sizes", "longest"),
    [("JapaneseVowels", (270, 370), 29), ("ItalyPowerDemand", (67, 1029), 24), ("ACSF1", (100, 100), 1460)],
)
def test_real_data_sets_have_their_published_sizes(name: str, sizes: tuple[int, int], longest: int) -> None:
    task = registry.build_task("ts", {"dataset": name, "validation": "test"})
    assert (len(task.splits()["train"]), len(task.splits()["test"])) == sizes
    assert task.max_length == longest
