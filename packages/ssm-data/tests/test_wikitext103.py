from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.config import field_docs, knobs
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.protocols import Output
from ssm_core.testing import TaskSuite
from ssm_data.lm.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from ssm_data.lm.corpus import Block
from ssm_data.wikitext103.data import HUB, TITLE, articles
from ssm_data.wikitext103.spec import SPEC, WikiText103Config

ARTICLE = (
    " = {0} = \n \n The {0} is a <unk> of the {1} , and the {1} is not . \n \n"
    " = = Life = = \n \n It has {1} @-@ legs . \n \n"
)


def text(n: int, first: int = 0) -> str:
    names = ("cat", "dog", "bird", "fish", "horse")
    return " \n" + "".join(ARTICLE.format(names[i % 5], names[(i + 2) % 5]) for i in range(first, first + n))


TEXTS = {"train": text(30), "valid": text(3, 1), "test": text(4, 2)}


def write(folder: Path, layout: str = "wiki.{}.tokens") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in TEXTS.items():
        (folder / layout.format(name)).write_text(body, encoding="utf-8")
    return folder


@pytest.fixture
def official(tmp_path: Path) -> Path:
    write(tmp_path / "data" / "wikitext-103")
    return tmp_path / "data"


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "wiki"
    if not folder.exists():
        write(folder / "wikitext-103")
    monkeypatch.setenv("SSM_DATA_ROOT", str(folder))


@pytest.mark.usefixtures("files")
class TestWords(TaskSuite):
    task = "wikitext103"
    config: ClassVar = {"length": 16, "cutoffs": [6, 12], "div_val": 2.0}


@pytest.mark.usefixtures("files")
class TestWordsUntied(TaskSuite):
    task = "wikitext103"
    config: ClassVar = {"length": 16, "cutoffs": [6], "tied": False, "eval_context": 8}


@pytest.mark.usefixtures("files")
class TestPieces(TaskSuite):
    task = "wikitext103"
    config: ClassVar = {"length": 16, "level": "bpe", "vocab_size": 300, "softmax": "full", "reset": True}


def make(**given: object):
    return registry.build_task("wikitext103", {"length": 16, **given})


@pytest.mark.parametrize(
    ("place", "layout"),
    [
        ("wikitext-103", "wiki.{}.tokens"),
        ("wt103", "{}.txt"),
        (".", "wiki.{}.tokens"),
        ("lra_release/wikitext103", "wiki.{}.tokens"),
    ],
)
def test_known_layouts_are_found(tmp_path: Path, caplog, place: str, layout: str) -> None:
    write(tmp_path / place, layout)
    with caplog.at_level(logging.INFO):
        splits = make(root=str(tmp_path), cache=str(tmp_path / "cache")).splits()
    assert f"the text is that of {tmp_path / place}" in caplog.text
    assert "local files" in splits["train"].provenance
    assert "NOT the published number of words" in splits["test"].provenance


def test_other_text_in_the_data_folder_is_not_taken_for_it(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, "{}.txt")
    monkeypatch.setenv("SSM_DATA_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="found no files"):
        make().prepare()


def test_words_are_those_of_the_files(official: Path) -> None:
    splits = make(root=str(official)).splits()
    vocabulary = splits["train"].vocabulary
    assert vocabulary[0] == "<eos>"
    assert vocabulary[1] in ("the", "=")
    for name, file in {"train": "train", "validation": "valid", "test": "test"}.items():
        expected = [word for line in TEXTS[file].splitlines() for word in [*line.split(), "<eos>"]]
        assert [vocabulary[i] for i in splits[name].arrays["tokens"]] == expected
    counts = np.bincount(splits["train"].arrays["tokens"], minlength=len(vocabulary))[1:]
    assert (np.diff(counts) <= 0).all()


def test_an_article_is_a_document(official: Path) -> None:
    task = make(root=str(official), reset=True)
    split = task.splits()["test"]
    assert len(split.arrays["documents"]) - 1 == 4
    begins = split.arrays["documents"][1]
    assert [split.vocabulary[i] for i in split.arrays["tokens"][begins : begins + 3]] == ["=", "fish", "="]


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
def test_articles_do_not_depend_on_how_the_stream_is_cut(size: int) -> None:
    data = TEXTS["valid"].encode()
    found: list[bytes] = []
    for part, begins in articles(data[i : i + size] for i in range(0, len(data), size)):
        assert isinstance(Block(part, begins).text, bytes)
        found += [b""] if begins else []
        found[-1] += part
    assert b"".join(found) == data
    assert len(found) == 3
    assert all(article.lstrip().startswith(b"= ") for article in found)


@pytest.mark.parametrize(
    ("line", "is_title"),
    [
        (b" = Valkyria Chronicles III = ", True),
        (b" = = Plot = = ", False),
        (b" = = = Reception = = = ", False),
        (b" x = y ", False),
        (b" = ", False),
        (b"", False),
    ],
)
def test_headings(line: bytes, is_title: bool) -> None:
    assert bool(TITLE.fullmatch(line)) is is_title


def test_hub_and_files_give_the_same(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*place: str, revision: str) -> dict[str, datasets.Dataset]:
        asked.append((*place, revision))
        lines = lambda body: [line if line.strip() else "" for line in body.splitlines(keepends=True)]  # noqa: E731
        names = {"train": "train", "valid": "validation", "test": "test"}
        return {names[k]: datasets.Dataset.from_dict({"text": lines(v)}) for k, v in TEXTS.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for given in ({}, {"level": "byte", "softmax": "full"}):
        local = make(root=str(official), **given).splits()
        hub = make(source="hub", cache=str(tmp_path / "hub"), **given).splits()
        for name, split in local.items():
            for array in ("tokens", "documents"):
                assert np.array_equal(split.arrays[array], hub[name].arrays[array])
    assert asked[0] == (HUB, "wikitext-103-v1", WikiText103Config().revision)
    assert "official (the pinned revision), from the hub" in hub["train"].provenance
    other = make(source="hub", cache=str(tmp_path / "hub"), revision="main").splits()["train"].provenance
    assert other.startswith("of a revision of your own, from the hub: Salesforce/wikitext, wikitext-103-v1")


def test_an_unreachable_hub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: str, revision: str) -> None:
        raise ConnectionError("Couldn't reach 'Salesforce/wikitext' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = make(source="hub", cache=str(tmp_path))
    with pytest.raises(UserError, match=r"from the hub \(Salesforce/wikitext.*Couldn't reach"):
        task.prepare()


@pytest.mark.parametrize("source", ["auto", "local"])
def test_missing_files_name_places_hub_and_files(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError) as caught:
        make(source=source, root=str(tmp_path)).prepare()
    said = str(caught.value)
    for part in (str(tmp_path / "wikitext-103"), "wiki.{train,valid,test}.tokens", HUB, "task.source=hub"):
        assert part in said


def test_an_empty_file_is_told_and_leaves_nothing(official: Path, tmp_path: Path) -> None:
    (official / "wikitext-103" / "wiki.valid.tokens").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"wiki\.valid\.tokens is empty"):
        make(root=str(official), cache=str(tmp_path / "cache")).prepare()
    # The hash of the text before it stays known; of the empty one there is none.
    held = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.relative_to(tmp_path / "cache").parts[0] for path in held} == {"wikitext103-files"}
    assert len({path.parent for path in held}) == 1


def test_raw_text_and_pieces(tmp_path: Path) -> None:
    write(tmp_path / "wikitext-103-raw", "wiki.{}.raw")
    given = {"text": "raw", "level": "bpe", "vocab_size": 300, "softmax": "full"}
    task = make(root=str(tmp_path), **given)
    split = task.splits()["test"]
    tokenizer = split.tokenizer.load()
    assert b"".join(tokenizer.spelled[i] for i in split.arrays["tokens"]).decode() == TEXTS["test"]
    assert (split.arrays["tokens"] == tokenizer.end).sum() == 4
    assert task.primary == ("bits_per_byte", "min")
    with pytest.raises(UserError, match=r"wiki\.\{train,valid,test\}\.tokens"):
        make(root=str(tmp_path)).prepare()


def test_words_count_alike_at_every_level(official: Path) -> None:
    counted = {}
    for level in ("word", "bpe", "byte"):
        task = make(root=str(official), level=level, vocab_size=300)
        data = task.splits()["test"]
        batch = task.collate([data[i] for i in range(len(data))])
        found = task.predictions(Output(torch.zeros(batch.targets.shape), ()), batch)
        counted[level] = int(found["words"].sum()), int(found["bytes"].sum())
    words = sum(len(line.split()) + 1 for line in TEXTS["test"].splitlines())
    assert counted["word"][0] == words - 1  # the first token has none before it
    assert abs(counted["byte"][0] - words) <= 1
    assert abs(counted["bpe"][0] - words) <= 1
    assert counted["byte"][1] == len(TEXTS["test"].encode()) - 1


def test_the_head_is_adaptive_and_tied(official: Path) -> None:
    task = make(root=str(official), cutoffs=[5, 10])
    assert isinstance(task.encoder(8), AdaptiveEmbedding)
    head = task.head(8)
    assert isinstance(head, AdaptiveSoftmax)
    assert head.own is None
    assert head.edges == [0, 5, 10, task.vocabulary_size]
    assert task.primary == ("perplexity", "min")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cutoffs": [5, 5]}, "increase"),
        ({"cutoffs": [0]}, "above 0"),
        ({"div_val": 0.5}, "div_val"),
        ({"source": "generate"}, "source"),
        ({"levl": "word"}, "did you mean 'level'"),
    ],
)
def test_bad_knobs_are_told(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**given)


def test_every_knob_is_documented_and_figures_are_keyed() -> None:
    assert set(field_docs(WikiText103Config)) == {knob["name"] for knob in knobs(WikiText103Config)}
    ours = {row.backbone: row.value for row in SPEC.published if dict(row.settings)["level"] == "word"}
    assert (ours["s4"], ours["mega"], ours["transformer"]) == (20.95, 18.07, 18.66)
