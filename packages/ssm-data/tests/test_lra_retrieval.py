from __future__ import annotations

import gzip
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Batch
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.lra_retrieval import dataset
from ssm_data.lra_retrieval.task import PairHead

FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
Pair = tuple[int, str, str]


def pairs(split: str, n: int = 7) -> list[Pair]:
    """Texts of unequal length, with quotes and the characters that other tools end a line at."""
    rng = np.random.default_rng(len(split))
    text = 'The "quoted paper \'s "" é parsing of \x85 \u2028 \x0c trees 中 and so on'
    words = text.split(" ")

    def draw() -> str:
        return " ".join(rng.choice(words, rng.integers(2, 30)))

    return [(int(rng.integers(2)), draw(), draw()) for _ in range(n)]


def lines(rows: list[Pair]) -> bytes:
    return "".join(f"{float(y)}\tP{i}\tQ{i}\t{a}\t{b}\n" for i, (y, a, b) in enumerate(rows)).encode()


def write(root: Path, place: str = "tsv_data", suffix: str = "") -> Path:
    (root / place).mkdir(parents=True)
    for split, file in FILES.items():
        data = lines(pairs(split))
        (root / place / (file + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return root


def task(root: Path, **knobs: Any) -> Any:
    return registry.build_task("lra-retrieval", {"root": str(root), "cache": str(root / "cache"), **knobs})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("aan"))


class TestTask(TaskSuite):
    task = "lra-retrieval"
    config: ClassVar[Mapping[str, Any]] = {}
    root: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def data(self, files: Path) -> None:
        type(self).root = files

    def make(self) -> Any:
        return task(self.root, **self.config)


class TestBytes(TestTask):
    config: ClassVar[Mapping[str, Any]] = {"level": "byte", "append_eos": False, "max_length": 60}


def text_of(split: Any, ids: np.ndarray) -> str:
    return "".join(split.vocabulary[i] for i in ids[:-1])


@pytest.mark.parametrize(
    ("place", "suffix"),
    [("tsv_data", ""), ("aan", ""), ("lra_release/lra_release/tsv_data", ""), ("lra_release/aan", ".gz")],
)
def test_official_files_are_read_with_their_quotes(
    tmp_path: Path, place: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, place, suffix)
    with caplog.at_level(logging.INFO):
        splits = task(tmp_path, min_freq=1).splits()
    assert f"files in the official layout in {tmp_path / place}" in caplog.text
    for name, split in splits.items():
        found = [
            (int(row["targets"]), text_of(split, row["inputs"]), text_of(split, row["inputs_2"]))
            for row in (split[i] for i in range(len(split)))
        ]
        assert found == pairs(name)
        assert split.provenance.startswith(f"official layout: {tmp_path / place / FILES[name]}")
        assert "sha256" in split.provenance
        assert "NOT the official size" in split.provenance


def test_rows_are_as_documented(files: Path) -> None:
    split = task(files).splits()["train"]
    row = split[0]
    assert {name: np.asarray(value).dtype.name for name, value in row.items()} == {
        "inputs": "uint8",
        "inputs_2": "uint8",
        "length": "int64",
        "length_2": "int64",
        "targets": "uint8",
    }
    assert (row["length"], row["length_2"]) == (len(row["inputs"]), len(row["inputs_2"]))
    assert row["inputs"][-1] == row["inputs_2"][-1] == split.vocabulary.index("<eos>") == 2
    assert np.array_equal(split[-1]["inputs"], split[len(split) - 1]["inputs"])
    longer = [max(row["length"], row["length_2"]) for row in (split[i] for i in range(len(split)))]
    assert split.lengths().tolist() == longer
    assert any(row["length_2"] < row["length"] for row in split)
    assert any(row["length"] < row["length_2"] for row in split)
    described = info("lra-retrieval", root=str(files))["splits"]["test"]
    assert set(described["arrays"]) == {"values", "offsets", "values_2", "offsets_2", "targets"}


def test_characters_are_those_of_both_training_texts(files: Path) -> None:
    split = task(files, min_freq=15).splits()["test"]
    counts = Counter("".join(a + b for _, a, b in pairs("train")))
    kept = sorted((c for c, n in counts.items() if n >= 15), key=lambda c: (-counts[c], c))
    assert split.vocabulary == ["<pad>", "<unk>", "<eos>", *kept]
    assert 1 in np.concatenate([split[i]["inputs"] for i in range(len(split))])


def test_texts_are_cut_one_by_one(files: Path) -> None:
    made = task(files, max_length=12)
    split = made.splits()["train"]
    for row, (_, a, b) in zip((split[i] for i in range(len(split))), pairs("train"), strict=True):
        assert (text_of(split, row["inputs"]), text_of(split, row["inputs_2"])) == (a[:11], b[:11])
    assert made.max_length == 12


def test_both_texts_are_padded_alike(files: Path) -> None:
    made = task(files)
    split = made.splits()["train"]
    rows = [split[i] for i in range(5)]
    batch = made.collate(rows)
    longest = max(max(row["length"], row["length_2"]) for row in rows)
    second = batch.extra["inputs_2"]
    assert batch.inputs.shape == second.shape == (5, longest)
    assert batch.inputs.dtype == second.dtype == torch.uint8
    assert batch.mask_bl.sum(1).tolist() == [row["length"] for row in rows]
    assert batch.extra["mask_2"].sum(1).tolist() == [row["length_2"] for row in rows]
    assert (second[~batch.extra["mask_2"]] == 0).all()
    same = [{**rows[0], "inputs_2": rows[0]["inputs"], "length_2": rows[0]["length"]}]
    assert made.collate(same).mask_bl is None
    assert set(made.collate(same).extra) == {"inputs_2"}


class Stack(nn.Module):
    """Counts its calls and gives back what comes in."""

    calls = 0

    def forward(self, x_bld: torch.Tensor, *, mask_bl: torch.Tensor | None, state: Any) -> Any:
        self.calls += 1
        return x_bld, ()


def test_two_towers_share_one_pass_and_the_head_compares_them(files: Path) -> None:
    made = task(files)
    split = made.splits()["train"]
    rows = [split[i] for i in range(4)]
    model = nn.Module()
    model.encoder, model.head, model.stack = made.encoder(6), made.head(6), Stack()
    batch = made.collate(rows)
    logits = made.run(model, batch).head
    assert model.stack.calls == 1
    table, head = model.encoder.embedding.weight, model.head
    for row, found in zip(rows, logits, strict=True):
        a, b = (table[torch.from_numpy(row[key]).long()].mean(0) for key in ("inputs", "inputs_2"))
        expected = head.out(nn.functional.gelu(head.hidden(torch.cat([a, b, a - b, a * b]))))
        assert torch.allclose(found, expected, atol=1e-6)
    assert isinstance(head, PairHead)
    assert (head.hidden.in_features, head.hidden.out_features, head.out.out_features) == (24, 6, 2)


def test_the_second_text_matters_and_its_padding_does_not(files: Path) -> None:
    made = task(files)
    split = made.splits()["train"]
    model = nn.Module()
    model.encoder, model.head, model.stack = made.encoder(6), made.head(6), Stack()
    batch = made.collate([split[i] for i in range(4)])
    second, mask = batch.extra["inputs_2"], batch.extra["mask_2"]

    def run(changed: torch.Tensor) -> torch.Tensor:
        return made.run(
            model,
            Batch(
                batch.inputs, batch.targets, None, batch.mask_bl, None, {**batch.extra, "inputs_2": changed}
            ),
        ).head

    before = run(second)
    assert torch.equal(run(second.masked_fill(~mask, 3)), before)
    assert not torch.allclose(run(second.masked_fill(mask, 3)), before)


def no_cache(root: Path, split: str) -> bool:
    return not any(path.is_dir() for path in (root / "cache").glob(f"lra-retrieval/*/*{split}*"))


GOOD = "1.0\tP\tQ\tone\ttwo\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file has no rows"),
        (f"{GOOD}1.0\tP\tQ\tone\n".encode(), "row 2: 4 columns, not 5"),
        (f"{GOOD}1.0\tP\tQ\tone\ttwo\tthree\n".encode(), "row 2: 6 columns, not 5"),
        (f'{GOOD}1.0\tP\tQ\t"one\ttwo"\tthree\n'.encode(), "row 2: 6 columns"),
        (f"{GOOD}2.0\tP\tQ\tone\ttwo\n".encode(), "row 2: the label '2.0' is neither"),
        (f"{GOOD}nan\tP\tQ\tone\ttwo\n".encode(), "row 2: the label 'nan'"),
        (f"{GOOD}label\tP\tQ\tone\ttwo\n".encode(), "row 2: the label 'label'"),
        (f"{GOOD}\n".encode(), "row 2: 1 columns"),
        (f"{GOOD}1.0\tP\tQ\t\xff\ttwo\n".encode("latin-1"), "row 2: byte 9 of the line is not UTF-8"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_file_gives_one_clear_error_and_no_cache(
    tmp_path: Path, content: bytes, message: str, split: str
) -> None:
    write(tmp_path)
    file = tmp_path / "tsv_data" / FILES[split]
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).splits()
    assert str(file) in str(caught.value)
    assert no_cache(tmp_path, split)


def test_a_truncated_archive_is_told(tmp_path: Path) -> None:
    write(tmp_path, suffix=".gz")
    file = tmp_path / "tsv_data" / f"{FILES['validation']}.gz"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(
        UserError, match=r"eval\.tsv\.gz, row \d+: the compressed file is damaged or cut short"
    ):
        task(tmp_path).splits()
    assert no_cache(tmp_path, "validation")


def test_a_text_of_ten_million_characters_is_cut(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tsv_data" / FILES["test"]).write_bytes(b"0.0\tP\tQ\t" + b"a b " * 2_500_000 + b"\tshort\n")
    split = task(tmp_path).splits()["test"]
    assert (split[0]["length"], split[0]["length_2"]) == (4000, 6)


def test_absent_files_are_an_error_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lra-retrieval found no official files") as caught:
        task(tmp_path).splits()
    for word in (str(tmp_path / "tsv_data"), "lra_release/lra_release", FILES["train"], "SSM_DATA_ROOT"):
        assert word in str(caught.value)
    assert "generate" not in str(caught.value), "these texts cannot be made"


def test_changed_files_and_a_new_reader_give_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    assert len(task(tmp_path).splits()["test"]) == 7
    file = tmp_path / "tsv_data" / FILES["test"]
    file.write_bytes(file.read_bytes() + GOOD.encode())
    split = task(tmp_path).splits()["test"]
    assert len(split) == 8
    monkeypatch.setattr(dataset, "READER", dataset.READER + 1)
    assert task(tmp_path).splits()["test"].part.folder != split.part.folder


@pytest.mark.parametrize(
    "knobs",
    [{"max_length": 1}, {"min_freq": 0}, {"source": "generate"}, {"source": "hub"}, {"level": "word"}],
)
def test_a_knob_out_of_range_is_told(knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        registry.build_task("lra-retrieval", knobs)
