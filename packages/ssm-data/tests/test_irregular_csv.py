"""One's own tables: what they can hold, read back; what is wrong, named with file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.irregular_csv import table

Row = dict[str, Any]


def rows_of(n: int = 12, seed: int = 0) -> list[Row]:
    """Rows of series of unequal length at uneven times, with holes."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        time = 100.0 * i
        for k in range(int(rng.integers(3, 8))):
            time += float(rng.choice([1, 2, 2, 2, 5]))
            rows.append(
                {
                    "id": f"p{i}",
                    "time": time,
                    "a": f"{rng.standard_normal():.4f}",
                    "b": "" if rng.random() < 0.3 else f"{50 + rng.standard_normal():.4f}",
                    "target": "" if k == 1 else f"{200 + 10 * rng.standard_normal():.3f}",
                    "kind": ("calm", "wild")[i % 2],
                    "state": "" if k == 0 else ("up", "down", "still")[int(rng.integers(3))],
                    "part": ("train", "train", "validation", "test")[i % 4],
                }
            )
    return rows


def write(path: Path, rows: Sequence[Row], **changes: Callable[[Row], Any]) -> Path:
    rows = [{**row, **{name: change(row) for name, change in changes.items()}} for row in rows]
    lines = [",".join(rows[0])] + [",".join(str(cell) for cell in row.values()) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "mine.csv", rows_of())


VALUES: dict[str, Any] = {"value_columns": ["a", "b"], "split_column": "part"}


def make(path: Path, **given: Any) -> Any:
    return registry.build_task("irregular-csv", {"path": str(path), **VALUES, **given})


class Suite(TaskSuite):
    given: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _where(self, mine: Path) -> None:
        self.path = mine

    def make(self) -> Any:
        return make(self.path, **self.given)


class TestNumbersOfElements(Suite):
    pass


class TestNumbersOfSeries(Suite):
    given: ClassVar = {"target_columns": ["level"], "per": "series", "time": "appended", "missing": "forward"}

    def make(self) -> Any:
        path = self.path.with_name("level.csv")
        if not path.exists():
            write(path, rows_of(), level=lambda row: row["id"][1:])
        return make(path, **self.given)


class TestClassesOfElements(Suite):
    given: ClassVar = {"target": "class", "target_columns": ["state"], "time": "ignored"}


class TestClassesOfSeries(Suite):
    given: ClassVar = {"target": "class", "per": "series", "target_columns": ["kind"], "split_column": ""}


del Suite


def test_rows_are_what_stands_in_the_table(mine: Path) -> None:
    expected: dict[str, list[Row]] = {}
    for row in rows_of():
        expected.setdefault(row["id"], []).append(row)
    splits = make(mine).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    for name, split in splits.items():
        held = [rows for rows in expected.values() if rows[0]["part"] == name]
        for row, cells in zip(split, held, strict=True):
            for key, columns in (("inputs", ("a", "b")), ("targets", ("target",))):
                wanted = [[float(cell[c]) if cell[c] else np.nan for c in columns] for cell in cells]
                assert np.array_equal(row[key], np.array(wanted, np.float32), equal_nan=True)
                assert row[key].dtype == np.float32
            assert row["time_points"].tolist() == [cell["time"] for cell in cells]
            assert row["length"] == len(cells)


def test_gaps_are_in_median_gaps_of_training_and_the_number_is_told(mine: Path) -> None:
    task = make(mine)
    train = task.splits()["train"]
    everything = np.concatenate([np.diff(row["time_points"]) for row in train])
    assert task.facts.unit == np.median(everything) == 2
    batch = task.collate([train[i] for i in range(3)])
    assert (batch.dt_bl[:, 0] == 1).all()
    for i in range(3):
        times = train[i]["time_points"]
        assert batch.dt_bl[i, 1 : len(times)].tolist() == (np.diff(times) / 2).tolist()
    assert "a step is 2, the training split's median gap" in train.provenance
    assert train.provenance.count("sha256") == 1
    assert float(task.encoder(3).unit) == 2, "saved with the weights"
    pinned = make(mine, unit=4.0)
    assert torch.allclose(
        pinned.collate([train[0]]).dt_bl[:, 1:], batch.dt_bl[:1, 1 : len(train[0]["inputs"])] / 2
    )
    assert "as the knob says" in pinned.splits()["train"].provenance


def test_elements_without_a_target_are_not_asked(mine: Path) -> None:
    task = make(mine)
    rows = [task.splits()["train"][i] for i in range(4)]
    batch = task.collate(rows)
    asked = sum(int(np.isfinite(row["targets"]).sum()) for row in rows)
    assert asked == sum(len(row["targets"]) - 1 for row in rows)
    head = task.head(2)
    output = type("Out", (), {"head": head(torch.randn(*batch.inputs.shape[:2], 2), batch)})
    assert float(task.loss(output, batch).weight) == asked
    assert task.predictions(output, batch)["target"].shape == (asked,)
    panels = task.plots(output, batch)
    assert [len(panel.x) for panel in panels] == [len(row["targets"]) - 1 for row in rows]
    assert panels[0].truth == pytest.approx(
        [float(v) for v in rows[0]["targets"][[0, *range(2, len(rows[0]["targets"]))], 0]]
    )


def test_classes_are_those_of_training_or_the_named_ones(mine: Path) -> None:
    task = make(mine, target="class", target_columns=["state"])
    assert task.facts.classes == ("down", "still", "up")
    first = task.splits()["train"][0]
    states = [row["state"] for row in rows_of() if row["id"] == "p0"]
    assert first["targets"].tolist() == [task.facts.classes.index(s) if s else -100 for s in states]
    named = make(mine, target="class", target_columns=["state"], classes=["up", "down", "still", "off"])
    assert named.facts.classes == ("up", "down", "still", "off")
    assert named.head(2).linear.out_features == 4
    with pytest.raises(
        UserError, match=r"line \d+: state is 'still', none of the classes; did you mean|known"
    ):
        make(mine, target="class", target_columns=["state"], classes=["up", "down"]).splits()


def test_a_class_that_training_does_not_know_is_named(tmp_path: Path) -> None:
    rows = rows_of(8)
    path = write(tmp_path / "t.csv", rows, kind=lambda r: "odd" if r["part"] == "test" else r["kind"])
    line = 2 + next(i for i, row in enumerate(rows) if row["part"] == "test")
    with pytest.raises(UserError, match=rf"line {line}: kind is 'odd', none of the training split's classes"):
        make(path, target="class", per="series", target_columns=["kind"]).splits()


def test_series_are_dealt_out_whole_by_the_seed(mine: Path) -> None:
    splits = make(mine, split_column="", test=0.25, validation=0.17).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 7, "validation": 2, "test": 3}
    first = [row["time_points"][0] for split in splits.values() for row in split]
    assert len(set(first)) == 12
    again, other = (make(mine, split_column="", test=0.25, seed=s).splits()["test"] for s in (0, 1))
    starts = [[row["time_points"][0] for row in split] for split in (splits["test"], again, other)]
    assert starts[0] == starts[1] != starts[2]


def test_value_columns_default_to_what_has_no_other_part(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k not in ("kind", "state")} for row in rows_of()]
    task = make(write(tmp_path / "t.csv", rows), value_columns=[])
    assert task.facts.channels == ("a", "b")
    seen = make(write(tmp_path / "t.csv", rows), value_columns=["a", "target"])
    assert seen.facts.channels == ("a", "target"), "what is asked for may be seen as well"


def test_dates_are_seconds_whatever_their_zone(tmp_path: Path) -> None:
    start = datetime(2010, 3, 24, 9, 51, tzinfo=UTC)
    plain = write(
        tmp_path / "plain.csv",
        rows_of(),
        time=lambda r: (start + timedelta(minutes=r["time"])).isoformat(" ")[:-6],
    )
    zoned = write(
        tmp_path / "zoned.csv",
        rows_of(),
        time=lambda r: (start + timedelta(minutes=r["time"])).isoformat().replace("+00:00", "Z"),
    )
    for path in (plain, zoned):
        task = make(path)
        assert task.facts.unit == 120
        first = task.splits()["train"][0]["time_points"][0]
        assert first == start.timestamp() + 60 * rows_of()[0]["time"]


def test_packed_and_differently_cut_tables_are_the_same(mine: Path, tmp_path: Path, monkeypatch: Any) -> None:
    text = mine.read_text()
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "tabs.csv").write_text(
        "\ufeff" + text.replace(",", "\t").replace("\n", "\r\n\r\n"), newline=""
    )
    expected = make(mine).splits()
    monkeypatch.setattr(table, "ROWS", 5)  # series then go over the borders of blocks
    others = [
        make(tmp_path / "packed.csv.gz"),
        make(tmp_path / "tabs.csv", delimiter="\t"),
        make(mine, cache=str(tmp_path)),
    ]
    for task in others:
        for name, split in task.splits().items():
            for key, array in split.arrays.items():
                assert np.array_equal(array, expected[name].arrays[key], equal_nan=True), key


BAD: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda _: [], "the file as a whole: the file is empty"),
    "head only": (lambda t: t[:1], "the file as a whole: it has no rows below its head"),
    "few columns": (lambda t: [*t[:4], "p0,9.5", *t[4:]], "line 5: 2 columns, not 8"),
    "many columns": (lambda t: [*t[:4], t[4] + ",1", *t[5:]], "line 5: 9 columns, not 8"),
    "no column": (lambda t: [t[0].replace("time", "when"), *t[1:]], "line 1: there is no column 'time'"),
    "column twice": (lambda t: [t[0].replace("b", "a"), *t[1:]], "line 1: the column 'a' is named twice"),
    "no time": (
        lambda t: [*t[:2], with_cell(t[2], 1, ""), *t[3:]],
        "line 3: time is '', not a finite number",
    ),
    "no first time": (
        lambda t: [t[0], with_cell(t[1], 1, " "), *t[2:]],
        "line 2: time is '', neither a finite number nor a date",
    ),
    "nan time": (
        lambda t: [*t[:2], with_cell(t[2], 1, "nan"), *t[3:]],
        "line 3: time is 'nan', not a finite",
    ),
    "infinite time": (lambda t: [*t[:2], with_cell(t[2], 1, "inf"), *t[3:]], "line 3: time is 'inf'"),
    "date among numbers": (
        lambda t: [*t[:2], with_cell(t[2], 1, "2010-01-01"), *t[3:]],
        "line 3: time is '2010",
    ),
    "number among dates": (
        lambda t: [t[0], with_cell(t[1], 1, "2010-01-01"), *t[2:]],
        "line 3: time is .*not a date",
    ),
    "same time": (
        lambda t: [*t[:2], t[1], *t[2:]],
        "line 3: time does not increase in series 'p0': (.*) follows",
    ),
    "time runs back": (
        lambda t: [*t[:2], with_cell(t[2], 1, "-7"), *t[3:]],
        "line 3: time does not increase .*: -7",
    ),
    "no id": (lambda t: [*t[:2], with_cell(t[2], 0, ""), *t[3:]], "line 3: id is empty"),
    "id again": (lambda t: [*t, t[1]], r"line \d+: id 'p0' was there before other series"),
    "value": (
        lambda t: [*t[:2], with_cell(t[2], 2, "low"), *t[3:]],
        "line 3: a is 'low', not a finite number",
    ),
    "huge value": (
        lambda t: [*t[:2], with_cell(t[2], 2, "1e99"), *t[3:]],
        "line 3: a is '1e99', not a finite",
    ),
    "underscore": (lambda t: [*t[:2], with_cell(t[2], 2, "1_0"), *t[3:]], "line 3: a is '1_0', not a finite"),
    "underscore in a time": (
        lambda t: [*t[:2], with_cell(t[2], 1, "1_000"), *t[3:]],
        "line 3: time is '1_000', not a finite number",
    ),
    "underscore in the first time": (
        lambda t: [t[0], with_cell(t[1], 1, "1_0"), *t[2:]],
        "line 2: time is '1_0', neither",
    ),
    "infinite target": (lambda t: [*t[:2], with_cell(t[2], 4, "-inf"), *t[3:]], "line 3: target is '-inf'"),
    "split": (
        lambda t: [*t[:2], with_cell(t[2], 7, "dev"), *t[3:]],
        "line 3: part is 'dev', not train, validation",
    ),
    "split changes": (
        lambda t: [*t[:2], with_cell(t[2], 7, "test"), *t[3:]],
        "line 3: part is not the same in all rows",
    ),
    "quotes": (
        lambda t: [*t[:2], t[2].replace("p0", '"p0"x', 1), *t[3:]],
        "line 3: the row cannot be told apart",
    ),
}


def with_cell(line: str, place: int, cell: str) -> str:
    cells = line.split(",")
    return ",".join([*cells[:place], cell, *cells[place + 1 :]])


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_named_with_its_line(mine: Path, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_text("".join(f"{line}\n" for line in change(mine.read_text().splitlines())))
    with pytest.raises(UserError, match=message) as caught:
        make(path).splits()
    assert str(path) in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_bytes_that_are_no_text_and_cut_archives_are_told(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(mine.read_bytes() + b"p99,1,caf\xe9,1,1,calm,up,train\n")
    with pytest.raises(UserError, match=r"bad\.csv, line \d+: .*not UTF-8"):
        make(path).splits()
    packed = tmp_path / "bad.csv.gz"
    packed.write_bytes(gzip.compress(mine.read_bytes())[:-20])
    with pytest.raises(UserError, match=r"bad\.csv\.gz, line \d+: the packed file is damaged"):
        make(packed).splits()
    packed.write_bytes(b"no gzip at all")
    with pytest.raises(UserError, match="the packed file is damaged"):
        make(packed).splits()


def test_series_whose_rows_disagree_or_have_no_target_are_named(tmp_path: Path) -> None:
    given = {"target": "class", "per": "series", "target_columns": ["kind"]}
    rows = rows_of(6)
    changed = [{**row, "kind": "wild" if i == 1 else row["kind"]} for i, row in enumerate(rows)]
    with pytest.raises(UserError, match="line 3: kind is not the same in all rows of series 'p0'"):
        make(write(tmp_path / "a.csv", changed), **given).splits()
    path = write(tmp_path / "b.csv", rows, kind=lambda row: "" if row["id"] == "p0" else row["kind"])
    with pytest.raises(UserError, match="line 2: series 'p0' has no kind"):
        make(path, **given).splits()
    alike = write(tmp_path / "c.csv", rows, kind=lambda _: "calm")
    with pytest.raises(UserError, match="kind has 1 class in training"):
        make(alike, **given).splits()


def test_splits_without_series_are_told(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", rows_of(6), part=lambda row: "train" if row["part"] == "test" else row["part"]
    )
    with pytest.raises(UserError, match="no series is for test: part names none"):
        make(path).splits()
    with pytest.raises(UserError, match="no series is for train: there are 2 in all"):
        make(write(tmp_path / "two.csv", rows_of(2)), split_column="").splits()


def test_no_table_is_told() -> None:
    with pytest.raises(UserError, match=r"no path is given\n.*task\.path=FILE\.csv"):
        registry.build_task("irregular-csv", {}).splits()
    with pytest.raises(UserError, match=r"found no table; it looked for\n +.*absent\.csv"):
        registry.build_task("irregular-csv", {"path": "absent.csv"}).splits()


def test_changed_tables_are_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows_of(6))
    before = make(path).splits()["train"].part
    assert make(path, time="ignored", missing="forward").splits()["train"].part == before
    write(path, rows_of(7))
    assert make(path).splits()["train"].part != before
    assert len(ssm_data.load("irregular-csv", "train", path=str(path), **VALUES)) == 4


@pytest.mark.parametrize(
    "given",
    [
        {"id_column": ""},
        {"target_columns": []},
        {"time_column": "id"},
        {"value_columns": ["time"]},
        {"delimiter": ";;"},
        {"delimiter": '"'},
        {"target": "class", "target_columns": ["a", "b"]},
        {"classes": ["a", "b"]},
        {"target": "class", "classes": ["a", "a"]},
        {"validation": 0.0},
        {"validation": 0.5, "test": 0.5},
        {"seed": -1},
        {"unit": 0.0},
    ],
)
def test_bad_knobs_are_told(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"column|delimiter|class|validation|seed|unit"):
        registry.build_task("irregular-csv", given)
