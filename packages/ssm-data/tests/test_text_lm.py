from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import ssm_data
from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.text_lm import data
from ssm_data.text_lm.spec import TextLMConfig


class TestBytes(TaskSuite):
    task = "text-lm"
    config: ClassVar = {"length": 32}


class TestPieces(TaskSuite):
    task = "text-lm"
    config: ClassVar = {
        "length": 16,
        "level": "bpe",
        "vocab_size": 400,
        "split_by": "documents",
        "sampling": "random",
        "eval_context": 4,
        "tied": True,
        "reset": True,
    }


class TestStreams(TaskSuite):
    task = "text-lm"
    config: ClassVar = {"length": 32, "sampling": "streams", "streams": 4}


def test_the_built_in_corpus_is_named_as_such() -> None:
    described = info("text-lm", split_by="documents")
    sizes = {name: split["arrays"]["tokens"]["shape"][0] for name, split in described["splits"].items()}
    assert all("help texts of Python" in split["provenance"] for split in described["splits"].values())
    assert 300_000 < sizes["train"] < 600_000
    text = ssm_data.load("text-lm", "train", split_by="documents").arrays["tokens"].tobytes()
    assert b"  " not in text
    assert b'The "' in text


def test_rows_and_vocabulary_are_as_documented() -> None:
    split = ssm_data.load("text-lm", "validation", length=20)
    row = split[0]
    assert {k: (v.dtype.name, v.shape) for k, v in row.items()} == {
        "inputs": ("uint8", (20,)),
        "targets": ("int32", (20,)),
    }
    assert (row["inputs"][1:] == row["targets"][:-1]).all()
    assert split.vocabulary[65] == "A"
    assert len(split.vocabulary) == 256
    pieces = ssm_data.load("text-lm", "validation", level="bpe", vocab_size=400)
    assert pieces[0]["inputs"].dtype == np.uint16
    assert isinstance(pieces.vocabulary, list)


def test_batches_keep_bytes_small() -> None:
    task = registry.build_task("text-lm", {"length": 20})
    data = task.splits()["train"]
    batch = task.collate([data[0], data[1]])
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.uint8, torch.int64)
    assert batch.reset_bl is None


def folder(tmp_path):
    root = tmp_path / "books"
    (root / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "a.txt").write_text("first book\n" * 50, encoding="utf-8")
    (root / "deep" / "b.txt.gz").write_bytes(gzip.compress(b"second book\n" * 50))
    (root / "empty.txt").write_bytes(b"")
    (root / "note.md").write_text("no book\n", encoding="utf-8")
    (root / ".hidden" / "c.txt").write_text("hidden\n", encoding="utf-8")
    return root


def test_a_folder_is_read_whole_and_only_what_was_meant(tmp_path) -> None:
    given = {"path": str(folder(tmp_path)), "pattern": "*.txt, *.txt.gz", "validation": 0.2, "test": 0.2}
    task = registry.build_task("text-lm", given)
    splits = task.splits()
    text = b"".join(splits[name].arrays["tokens"].tobytes() for name in ("train", "validation", "test"))
    assert text == b"first book\n" * 50 + b"second book\n" * 50
    assert "2 local files" in splits["train"].provenance
    assert len(splits["train"].arrays["documents"]) == 3


def test_the_cache_goes_by_content(tmp_path) -> None:
    file = tmp_path / "a.txt"
    sizes = []
    for text in ("one two three\n" * 30, "one two four\n" * 30):
        file.write_text(text, encoding="utf-8")
        split = ssm_data.load("text-lm", "train", path=str(file), cache=str(tmp_path / "cache"))
        sizes.append(split.arrays["tokens"].tobytes()[:14])
    assert sizes == [b"one two three\n", b"one two four\no"]
    assert len(list((tmp_path / "cache" / "text-lm").iterdir())) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "no file or folder .*nowhere"),
        (lambda root: root, r"no file that matches \*\.txt"),
        (lambda root: write(root / "a.txt", b""), r"a\.txt is empty"),
        (
            lambda root: write(root / "a.gz", gzip.compress(b"text\n" * 9999)[:-40]),
            r"a\.gz is cut off or damaged after",
        ),
        (lambda root: write(root / "b.gz", b"no gzip at all"), r"b\.gz is cut off or damaged after 0 bytes"),
        (lambda root: write(root / "a.txt", b"x"), "split gets . tokens"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(tmp_path, make, message: str) -> None:
    (tmp_path / "in").mkdir()
    given = {"path": str(make(tmp_path / "in")), "cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=message):
        registry.build_task("text-lm", given).prepare()
    held = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    # What a whole text's hash is stays known, whatever comes of the text.
    assert [path for path in held if "text-lm-files" not in path.parts] == []


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def test_pieces_are_learned_from_as_many_bytes_as_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ssm_data.lm.corpus.BLOCK", 100)
    file = write(tmp_path / "a.txt", b"".join(b"%03d is a line\n" % i for i in range(715)))
    learn, seen = data.train_bpe, []

    def counted(lines, *rest):
        seen.extend(lines)
        return learn(iter(seen), *rest)

    monkeypatch.setattr(data, "train_bpe", counted)
    given = {"level": "bpe", "vocab_size": 300, "sample_mb": 0.004, "validation": 0.25, "test": 0.25}
    registry.build_task("text-lm", {"path": str(file), "cache": str(tmp_path / "cache"), **given}).prepare()
    assert 3600 <= sum(map(len, seen)) <= 4100, "of the 5000 for training, without newlines"


def test_too_few_documents_to_deal_are_told(tmp_path) -> None:
    file = write(tmp_path / "a.txt", b"only one document\n" * 9)
    task = registry.build_task("text-lm", {"path": str(file), "split_by": "documents"})
    with pytest.raises(UserError, match="split_by=position"):
        task.prepare()
    write(file, b"only\n")
    with pytest.raises(UserError, match=r"task\.validation=.*task\.test") as told:
        registry.build_task("text-lm", {"path": str(file)}).prepare()
    assert "split_by" not in str(told.value), "that is how it is cut already"


def test_a_line_of_ten_million_bytes_is_encoded(tmp_path) -> None:
    file = write(tmp_path / "long.txt", b"ab cde " * 1_500_000)
    given = {"path": str(file), "cache": str(tmp_path / "cache")}
    splits = registry.build_task("text-lm", given).splits()
    assert sum(len(split.arrays["tokens"]) for split in splits.values()) == 10_500_000


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"length": 0}, "at least 1"),
        ({"validation": 0.0}, "above 0"),
        ({"validation": 0.5, "test": 0.5}, "something to train on"),
        ({"level": "char"}, "level"),
        ({"vocab_size": 100}, "256 pieces"),
        ({"eval_context": 256}, "nothing to score"),
        ({"n_windows": 5}, "sampling = random"),
        ({"sampling": "streams", "eval_context": 5}, "context in the state"),
        ({"roll": True}, "roll is for sampling = streams"),
        ({"pat": "x"}, "did you mean 'path'"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        registry.build_task("text-lm", given)


def test_every_knob_is_documented() -> None:
    assert set(field_docs(TextLMConfig)) == {knob["name"] for knob in knobs(TextLMConfig)}


def test_carried_state_equals_one_long_row() -> None:
    task = registry.build_task("text-lm", {"length": 24, "sampling": "streams", "streams": 3})
    model = TestStreams().model(task)
    data = task.splits()["test"]
    first, second = (task.collate([data[i] for i in range(k, k + 3)]) for k in (0, 3))
    joined = replace(
        first,
        inputs=torch.cat([first.inputs, second.inputs], 1),
        targets=torch.cat([first.targets, second.targets], 1),
    )
    with torch.no_grad():
        before = model(first)
        found = torch.cat([before.head, model(second, before.state).head], 1)
        torch.testing.assert_close(found, model(joined).head, rtol=1e-4, atol=1e-5)
        with pytest.raises(ConfigError, match=r"train\.batch_size=3"):
            model(task.collate([data[0]]), before.state)


def test_predictions_say_what_each_piece_is_worth() -> None:
    task = registry.build_task("text-lm", {"length": 64, "level": "bpe", "vocab_size": 400})
    model = TestPieces().model(task)
    data = task.splits()["test"]
    batch = task.collate([data[i] for i in range(3)])
    with torch.no_grad():
        output = model(batch)
    found = task.predictions(output, batch)
    assert {name: tuple(value.shape) for name, value in found.items()} == dict.fromkeys(
        ("prediction", "target", "bytes", "words"), (192,)
    )
    total, weight = task.loss(output, batch)
    assert weight == 192
    torch.testing.assert_close(-found["prediction"].sum(), total)
    pieces = data.tokenizer.load()
    text = b"".join(pieces.spelled[i] for i in batch.targets.flatten().tolist())
    assert int(found["bytes"].sum()) == len(text)
    assert abs(int(found["words"].sum()) - len(text.split())) <= 1


def test_the_light_modules_load_neither_torch_nor_numpy() -> None:
    modules = ("ssm_data.text_lm.spec", "ssm_data.wikitext103.spec")
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
