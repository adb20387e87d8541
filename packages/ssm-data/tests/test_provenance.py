"""What is said of where data comes from: that it is true of what was read this time, and tells files apart."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_data import files, sources
from ssm_data.lm import corpus
from ssm_data.lra_image import cifar, idx


def sha256(*contents: bytes) -> str:
    """What ``sha256sum FILES | cut -c -64 | sha256sum`` gives, and ``sha256sum FILE`` of one."""
    each = [hashlib.sha256(content).hexdigest() for content in contents]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(f"{h}\n" for h in each).encode()).hexdigest()


def splits_of(task: str, cache: Path, **given: object):
    return registry.build_task(task, {"cache": str(cache), **given}).splits()


def test_other_content_of_the_same_size_and_time_is_another_stamp(tmp_path: Path) -> None:
    file, other = tmp_path / "a.csv", tmp_path / "b.csv"
    file.write_text("id,1")
    other.write_text("id,1")
    before = [files.stamp(each) for each in ([file], [tmp_path], [file, other])]
    assert before == [files.stamp(each) for each in ([file], [tmp_path], [file, other])]
    assert files.stamp([other, file]) != before[2]
    state = file.stat()
    file.write_text("id,2")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    for old, now in zip(before, ([file], [tmp_path], [file, other]), strict=True):
        assert files.stamp(now) != old


def test_the_hash_of_several_files_goes_by_content_and_order() -> None:
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    assert files.hashed([one]) == f"sha256 {one}"
    assert files.hashed([one, two]) == f"sha256 of the sha256 of 2 files {sha256(b'one', b'two')}"
    assert files.hashed([one, two]) != files.hashed([two, one])


def write_text(root: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Write a corpus; return the knobs that name it and what each split's hash is of."""
    root.mkdir()
    text = b"one two three\n" * 30
    (root / "book.txt").write_bytes(text)
    return {"path": str(root)}, dict.fromkeys(("train", "validation", "test"), text)


def write_wiki(root: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    (root / "wikitext-103").mkdir(parents=True)
    texts = {}
    for split, stem in (("train", "train"), ("validation", "valid"), ("test", "test")):
        texts[split] = f" \n = Cat = \n \n A cat of {split} . \n".encode() * 3
        (root / "wikitext-103" / f"wiki.{stem}.tokens").write_bytes(texts[split])
    return {"root": str(root)}, texts


@pytest.mark.parametrize(("task", "write"), [("text-lm", write_text), ("wikitext103", write_wiki)])
def test_a_text_is_read_from_where_it_lies_now(tmp_path: Path, task: str, write) -> None:
    cache = tmp_path / "cache"
    first, texts = write(tmp_path / "a")
    there = splits_of(task, cache, **first)
    second, _ = write(tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    here = splits_of(task, cache, **second)
    for name, text in texts.items():
        assert here[name].part.folder == there[name].part.folder, "read once, as the content is the same"
        assert here[name].fingerprint == there[name].fingerprint
        for split, place, other in ((there[name], "a", "b"), (here[name], "b", "a")):
            assert f"; read from {tmp_path / place}" in split.provenance
            assert str(tmp_path / other) not in split.provenance
            assert f"{len(text)} bytes, sha256 {sha256(text)}" in split.provenance
    kept = [path.read_text() for path in cache.rglob("manifest.json")]
    assert len(kept) >= 3
    assert not any(str(tmp_path) in text for text in kept), "what is kept names no place"


@pytest.mark.parametrize(("task", "write"), [("text-lm", write_text), ("wikitext103", write_wiki)])
def test_a_second_start_reads_no_text_and_a_changed_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, write
) -> None:
    read: list[Path] = []
    opened = corpus.opened
    monkeypatch.setattr(corpus, "opened", lambda file: read.append(file) or opened(file))
    given, texts = write(tmp_path / "a")
    before = splits_of(task, tmp_path / "cache", **given)
    assert len(set(read)) == len(set(texts.values()))
    read.clear()
    again = splits_of(task, tmp_path / "cache", **given)
    assert not read
    assert {name: split.provenance for name, split in again.items()} == {
        name: split.provenance for name, split in before.items()
    }
    file = next(path for path in (tmp_path / "a").rglob("*.*") if "test" in path.name or task == "text-lm")
    state = file.stat()
    file.write_bytes(file.read_bytes().replace(b" t", b" T"))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after = splits_of(task, tmp_path / "cache", **given)["test"]
    assert file in read
    assert after.part.folder != before["test"].part.folder
    assert sha256(file.read_bytes()) in after.provenance


def test_several_and_packed_texts_are_hashed_as_they_are_read(tmp_path: Path) -> None:
    texts = (b"first book\n" * 50, b"second book\n" * 50)
    (tmp_path / "a.txt").write_bytes(texts[0])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(texts[1]))
    said = splits_of("text-lm", tmp_path / "cache", path=str(tmp_path), pattern="*.txt,*.gz")[
        "test"
    ].provenance
    assert said.startswith(
        f"2 local files, 1150 bytes unpacked, sha256 of the sha256 of 2 files {sha256(*texts)}"
    )


def test_the_built_in_corpus_lies_nowhere(tmp_path: Path) -> None:
    assert "read from" not in splits_of("text-lm", tmp_path, split_by="documents")["train"].provenance


def test_hashing_and_learning_pieces_are_told(tmp_path: Path) -> None:
    write_text(tmp_path / "a")
    (tmp_path / "a" / "long.txt").write_bytes(b"".join(b"word %d of it\n" % i for i in range(40_000)))
    told: dict[str, list[tuple[int, int]]] = {}
    given = {"path": str(tmp_path / "a"), "level": "bpe", "vocab_size": 300, "cache": str(tmp_path / "cache")}
    task = registry.build_task("text-lm", given)
    task.prepare(lambda what, done, total: told.setdefault(what, []).append((done, total)))
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert list(told) == [
        "text-lm data: hashing",
        "text-lm data: reading a sample",
        "text-lm data: learning pieces from it",
        "text-lm data: encoding",
    ]
    for what, steps in told.items():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps), what
        assert [done == total for done, total in steps] == [False] * (len(steps) - 1) + [True], what
    assert told["text-lm data: hashing"][-1] == (size, size)
    assert len(told["text-lm data: reading a sample"]) > 2


def write_pictures(root: Path, dataset: str) -> dict[str, list[bytes]]:
    """Write four pictures a file; return the contents of each part's files."""
    draw = np.random.default_rng(0)
    parts: dict[str, list[tuple[str, bytes]]] = {}
    if dataset == "cifar10":
        folder = root / "cifar10" / "cifar-10-batches-bin"
        for part, names in (("pool", cifar.TRAIN), ("test", cifar.TEST)):
            rows = [
                np.insert(draw.integers(0, 256, (4, 3072), np.uint8), 0, i, axis=1) for i in range(len(names))
            ]
            parts[part] = [(f"{name}.bin", row.tobytes()) for name, row in zip(names, rows, strict=True)]
    else:
        folder = root / "fashion-mnist"
        for part, split in (("pool", "train"), ("test", "test")):
            pictures = draw.integers(0, 256, (4, 784), np.uint8).tobytes()
            contents = (
                struct.pack(">4i", 0x803, 4, 28, 28) + pictures,
                struct.pack(">2i", 0x801, 4) + bytes(4),
            )
            parts[part] = list(zip(idx.FILES[split], contents, strict=True))
    folder.mkdir(parents=True)
    for name, content in (each for part in parts.values() for each in part):
        (folder / name).write_bytes(content)
    return {part: [content for _, content in each] for part, each in parts.items()}


@pytest.mark.parametrize(("dataset", "official"), [("cifar10", "50,000"), ("fashion-mnist", "60,000")])
def test_pictures_have_their_hash_their_number_and_their_place(
    tmp_path: Path, dataset: str, official: str
) -> None:
    cache = tmp_path / "cache"
    contents = write_pictures(tmp_path / "a", dataset)
    there = splits_of("lra-image", cache, dataset=dataset, root=str(tmp_path / "a"))
    shutil.move(tmp_path / "a", tmp_path / "b")
    here = splits_of("lra-image", cache, dataset=dataset, root=str(tmp_path / "b"))
    for name, part in (("train", "pool"), ("validation", "pool"), ("test", "test")):
        said = here[name].provenance
        assert sha256(*contents[part]) in said
        assert "official layout: " in said
        assert f"NOT the official size: {4 * len(contents[part]) if dataset == 'cifar10' else 4} rows" in said
        assert f"not {official if part == 'pool' else '10,000'}" in said
        assert f"; read from {tmp_path / 'b'}" in said
        assert str(tmp_path / "a") not in said
        assert f"; read from {tmp_path / 'a'}" in there[name].provenance
        assert here[name].fingerprint == there[name].fingerprint
    assert here["train"].fingerprint != here["test"].fingerprint
    assert len(list((cache / "lra-image").glob("*/pool"))) == 1


def test_pictures_that_are_nowhere_are_told_with_every_place_and_way(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        splits_of("lra-image", tmp_path, root=str(tmp_path))
    for form in ("py", "bin"):
        for place in ("", "cifar", "cifar10"):
            assert f"    {tmp_path / place / f'cifar-10-batches-{form}'}\n" in f"{told.value.hint}\n"
    assert told.value.hint.count("lra_release") == 3
    assert (
        "ssm train --backbone s4 --task lra-image --recipe fashion-mnist --set task.root=..."
        in told.value.hint
    )
    assert "stand-in" in told.value.hint
    assert "made here" not in told.value.hint


@pytest.mark.parametrize("task", ["lra-retrieval", "speech-commands"])
def test_what_only_files_have_says_that_there_is_no_other_way(tmp_path: Path, task: str) -> None:
    with pytest.raises(
        UserError, match="There is no id of it on the hub that is known here, and no generator"
    ):
        splits_of(task, tmp_path, root=str(tmp_path))


def test_the_ways_out_come_first_and_no_folder_twice(tmp_path: Path) -> None:
    looked = sources.candidates(("imdb", "", "imdb"), tmp_path / "lra_release")
    told = sources.missing("t", looked, files="x", hub="a/b", instead="--set y=1")
    lines = str(told).splitlines()
    assert lines[0] == "t found no x"
    assert [line[:8] for line in lines[1:4]] == ["  put th", "  or let", "  or tak"]
    assert lines[4] == "  it looked in (and so below lra_release and lra_release/lra_release)"
    assert lines[5:] == [f"    {tmp_path / 'lra_release' / 'imdb'}", f"    {tmp_path / 'lra_release'}"]


def test_ways_that_there_are_are_not_denied() -> None:
    assert "no generator" not in sources.missing("t", [], files="x", hub="a/b").hint
    assert (
        "no generator" not in sources.missing("t", [], files="x", instead="--set task.source=generate").hint
    )
