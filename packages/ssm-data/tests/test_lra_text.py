from __future__ import annotations

import io
import logging
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.lra_text import read
from ssm_data.tokens import Alphabet, of_characters

TEXT = 'A "quoted" word, café, <br />tabs\there; bad good dull fine \x85 \u2028 naïve 電影 😀'
WORDS = TEXT.split(" ")


def reviews(part: str, n: int = 6) -> dict[str, list[str]]:
    """Reviews of unequal length with every trouble a text can hold."""
    rng = np.random.default_rng(len(part))
    return {
        label: [" ".join(rng.choice(WORDS, rng.integers(3, 30))) + label for _ in range(n)]
        for label in ("neg", "pos")
    }


def in_order(part: str) -> list[str]:
    return [text for texts in reviews(part).values() for text in texts]


def write_folder(root: Path, place: str = "aclImdb") -> Path:
    for part in ("train", "test"):
        for label, texts in reviews(part).items():
            folder = root / place / part / label
            folder.mkdir(parents=True)
            # Names out of their order as text, as 10 and 9 are.
            for number, text in enumerate(texts):
                (folder / f"{number + 8}_{3 if label == 'neg' else 8}.txt").write_bytes(text.encode())
    (root / place / "train" / "unsup").mkdir()
    (root / place / "train" / "unsup" / "0_0.txt").write_text("without a label")
    return root


def write_archive(root: Path, extra: str = "") -> Path:
    write_folder(root / "unpacked")
    root.mkdir(exist_ok=True)
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as file:
        file.add(root / "unpacked" / "aclImdb", "aclImdb")
        if extra:
            member = tarfile.TarInfo(extra)
            member.size = 4
            file.addfile(member, io.BytesIO(b"evil"))
    return root


def write_parquet(root: Path, change: dict[str, list[Any]] | None = None) -> Path:
    from datasets import Dataset

    (root / "imdb" / "plain_text").mkdir(parents=True)
    for part in ("train", "test"):
        columns = {"text": in_order(part), "label": [0] * 6 + [1] * 6, **(change or {})}
        Dataset.from_dict(columns).to_parquet(root / "imdb" / "plain_text" / f"{part}-00000-of-00001.parquet")
    return root


WRITERS = {"folder": write_folder, "archive": write_archive, "parquet": write_parquet}


def task(root: Path, **knobs: Any) -> Any:
    return registry.build_task("lra-text", {"root": str(root), "cache": str(root / "cache"), **knobs})


def texts_of(split: Any) -> list[str]:
    """Read a split back: bytes, or characters, without the closing id."""
    out = []
    for row in (split[i] for i in range(len(split))):
        pieces = [split.vocabulary[i] for i in row["inputs"] if split.vocabulary[i] != "<eos>"]
        if all(piece.startswith("<0x") for piece in pieces):
            out.append(bytes(int(piece[3:5], 16) for piece in pieces).decode())
        else:
            out.append("".join(pieces))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("imdb"))


class TestTask(TaskSuite):
    task = "lra-text"
    config: ClassVar[Mapping[str, Any]] = {"max_length": 100}
    root: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def data(self, folder: Path) -> None:
        type(self).root = folder

    def make(self) -> Any:
        return task(self.root, **self.config)


class TestCharacters(TestTask):
    config: ClassVar[Mapping[str, Any]] = {"level": "char", "min_freq": 3, "validation": 0.25}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("level", ["byte", "char"])
def test_every_layout_gives_the_same_reviews(tmp_path: Path, kind: str, level: str) -> None:
    WRITERS[kind](tmp_path / "data")
    splits = task(tmp_path / "data", level=level, min_freq=1).splits()
    for part, split in splits.items():
        # A character that only the test reviews had would have no id: here there is none.
        assert texts_of(split) == in_order("train" if part == "train" else "test")
        assert split.arrays["targets"].tolist() == [0] * 6 + [1] * 6
        assert split.provenance.startswith(f"official layout: {tmp_path / 'data'}")
        assert "NOT the official size: 12 and 12 reviews" in split.provenance
        assert split[0]["inputs"][-1] == split.vocabulary.index("<eos>")
    assert "the test split, as published" in splits["validation"].provenance


def test_ids_of_bytes_are_those_of_the_original(folder: Path) -> None:
    split = task(folder).splits()["train"]
    first = reviews("train")["neg"][0].encode()
    assert split[0]["inputs"].tolist() == [byte + 1 for byte in first] + [257]
    assert split[0]["inputs"].dtype == np.uint16
    assert len(split.vocabulary) == 258
    open_ended = task(folder, append_eos=False).splits()["train"]
    assert open_ended[0]["inputs"].tolist() == [byte + 1 for byte in first]
    assert len(open_ended.vocabulary) == 257


def test_characters_are_counted_in_the_training_reviews_alone_as_in_the_s4_pipeline(folder: Path) -> None:
    made = task(folder, level="char", min_freq=5, max_length=40)
    splits = made.splits()
    counts = Counter(c for each in reviews("train").values() for text in each for c in text[:39])
    expected = sorted((c for c, n in counts.items() if n >= 5), key=lambda c: (-counts[c], c))
    vocabulary = splits["test"].vocabulary
    assert vocabulary == ["<pad>", "<unk>", "<eos>", *expected]
    rare = [c for c in counts if counts[c] < 5]
    assert rare
    text = reviews("test")["neg"][0][:39]
    ids = [vocabulary.index(c) if c in expected else 1 for c in text] + [2]
    assert splits["test"][0]["inputs"].tolist() == ids
    assert splits["test"][0]["inputs"].dtype == np.uint8
    assert made.encoder(4).embedding.num_embeddings == len(vocabulary)


def test_what_is_too_long_is_cut_and_still_closed(folder: Path) -> None:
    for level in ("byte", "char"):
        made = task(folder, max_length=60, level=level)
        split = made.splits()["train"]
        assert made.max_length == 60
        assert split.lengths().max() == 60
        assert split.lengths().min() < 60
        assert all(split[i]["inputs"][-1] == split.vocabulary.index("<eos>") for i in range(len(split)))


def test_validation_is_the_test_split_or_held_out_of_training(folder: Path) -> None:
    published = task(folder).splits()
    assert texts_of(published["validation"]) == texts_of(published["test"])
    own = task(folder, validation=0.25).splits()
    assert [len(own[name]) for name in ("train", "validation", "test")] == [9, 3, 12]
    together = Counter(texts_of(own["train"])) + Counter(texts_of(own["validation"]))
    assert together == Counter(texts_of(published["train"]))
    assert texts_of(own["test"]) == texts_of(published["test"])
    other = task(folder, validation=0.25, seed=1).splits()
    assert texts_of(other["validation"]) != texts_of(own["validation"])
    assert texts_of(task(folder, validation=0.25).splits()["train"]) == texts_of(own["train"])


def test_batches_keep_ids_small(folder: Path) -> None:
    made = task(folder, level="char")
    split = made.splits()["train"]
    batch = made.collate([split[i] for i in range(4)])
    assert batch.inputs.dtype == torch.uint8
    assert (batch.inputs[~batch.mask_bl] == 0).all()
    assert info("lra-text", root=str(folder), level="char")["splits"]["test"]["size"] == 12


@given(st.lists(st.text(max_size=30), max_size=5), st.booleans())
def test_any_text_comes_back_from_bytes(texts: list[str], end: bool) -> None:
    alphabet = Alphabet(None, end)
    values, offsets = alphabet.encode(texts, 1000)
    assert len(offsets) == len(texts) + 1
    for text, start, stop in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert bytes((values[start : stop - end] - 1).astype(np.uint8)).decode() == text


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text_comes_back_from_characters_that_were_counted(texts: list[str]) -> None:
    alphabet = of_characters(texts, 1000, 1, True)
    values, offsets = alphabet.encode(texts, 1000)
    vocabulary = alphabet.vocabulary
    for text, start, stop in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert "".join(vocabulary[i] for i in values[start : stop - 1]) == text


def no_cache(root: Path) -> bool:
    return not any(path.is_dir() for path in (root / "cache").glob("lra-text/*/*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("20_1.txt", b"", "the review is empty"),
        ("20_1.txt", b"caf\xe9 ", "byte 4 is not UTF-8"),
        ("notes.txt", b"read me", "'notes.txt' is no review's name"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "aclImdb" / "train" / "pos" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).splits()
    assert str(tmp_path / "aclImdb" / "train" / "pos" / name) in str(caught.value)
    assert no_cache(tmp_path)


def test_a_part_without_reviews_is_told(tmp_path: Path) -> None:
    for place in ("train/neg", "train/pos", "test/neg", "test/pos"):
        (tmp_path / "aclImdb" / place).mkdir(parents=True)
    with pytest.raises(UserError, match="has no reviews for 'train'"):
        task(tmp_path).splits()
    assert no_cache(tmp_path)


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/evil", "aclImdb/../../evil", "other/0_1.txt"])
def test_an_archive_with_a_member_outside_its_folder_is_refused(tmp_path: Path, member: str) -> None:
    write_archive(tmp_path, member)
    (tmp_path / "unpacked").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lies outside the folder aclImdb") as caught:
        task(tmp_path).splits()
    assert "aclImdb_v1.tar.gz, row " in str(caught.value)
    assert no_cache(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 300, -4])
def test_a_truncated_archive_is_told(tmp_path: Path, keep: int) -> None:
    file = write_archive(tmp_path) / "aclImdb_v1.tar.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"aclImdb_v1\.tar\.gz, .*damaged or cut short"):
        task(tmp_path).splits()
    assert no_cache(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0] * 11 + [2]}, "row 12: the label 2 is neither 0 nor 1"),
        ({"label": [0] * 11 + [-1]}, "row 12: the label -1"),
        ({"label": [0] * 11 + [None]}, "row 12: the label None"),
        ({"label": [0.0] * 11 + [float("nan")]}, "row 12: the label nan"),
        ({"text": ["a"] * 11 + [""]}, "row 12: the review is empty"),
        ({"text": ["a"] * 11 + [None]}, "row 12: the review is empty"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path: Path, change: dict[str, list[Any]], message: str) -> None:
    write_parquet(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).splits()
    assert "train-00000-of-00001.parquet" in str(caught.value)
    assert no_cache(tmp_path)


def test_a_truncated_table_is_told(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    file = tmp_path / "imdb" / "plain_text" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet, the file as a whole: .*damaged"):
        task(tmp_path).splits()
    assert no_cache(tmp_path)


def test_the_hub_is_asked_for_a_pinned_revision_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    asked = []

    def fake(*args: Any, **kwargs: Any) -> dict[str, Any]:
        asked.append((args, kwargs))
        return {
            part: datasets.Dataset.from_dict({"text": in_order(part), "label": [0, 1] * 6})
            for part in ("train", "test")
        }

    monkeypatch.setattr(datasets, "load_dataset", fake)
    with pytest.raises(UserError, match="found no film reviews") as caught:
        task(tmp_path).splits()
    assert asked == []
    for word in (str(tmp_path / "aclImdb"), "stanfordnlp/imdb", "--set task.source=hub", "aclImdb_v1.tar.gz"):
        assert word in str(caught.value)
    with caplog.at_level(logging.INFO):
        split = task(tmp_path, source="hub").splits()["train"]
    ((args, kwargs),) = asked
    assert args == ("stanfordnlp/imdb", "plain_text")
    assert kwargs == {"revision": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"}
    assert (
        f"official (the pinned revision): downloaded from {args[0]}, revision {kwargs['revision']}"
        in split.provenance
    )
    assert kwargs["revision"] in caplog.text
    task(tmp_path, source="hub").splits()
    assert len(asked) == 1, "the second time it comes from the cache"
    other = task(tmp_path, source="hub", revision="main").splits()["test"].provenance
    assert len(asked) == 2
    assert other.startswith("of a revision of your own: downloaded from stanfordnlp/imdb, revision main")


@pytest.mark.parametrize("kind", ["no connection", "no whole file", "no such part"])
def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import datasets

    def fail(*_: Any, **__: Any) -> dict[str, Any]:
        if kind == "no whole file":
            raise datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset")
        if kind == "no connection":
            raise ConnectionError("Couldn't reach 'stanfordnlp/imdb' on the Hub (OfflineModeIsEnabled)")
        return {"train": None}

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match="cannot download stanfordnlp/imdb@e628") as caught:
        task(tmp_path, source="hub").splits()
    assert "SSM_DATA_ROOT" in str(caught.value)
    assert no_cache(tmp_path)


def test_changed_reviews_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    before = task(tmp_path).splits()["train"].part.folder
    assert task(tmp_path).splits()["train"].part.folder == before
    (tmp_path / "aclImdb" / "train" / "pos" / "99_9.txt").write_text("one more")
    after = task(tmp_path).splits()["train"]
    assert (len(after), after.part.folder == before) == (13, False)
    monkeypatch.setattr(read, "READER", read.READER + 1)
    assert task(tmp_path).splits()["train"].part.folder != after.part.folder


@pytest.mark.parametrize(
    "knobs",
    [
        {"max_length": 1},
        {"min_freq": 0},
        {"validation": 1.0},
        {"validation": "train"},
        {"source": "generate"},
        {"level": "word"},
    ],
)
def test_a_knob_out_of_range_is_told(knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        registry.build_task("lra-text", knobs)
