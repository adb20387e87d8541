"""What language-modelling tasks share: tokenisers, packing, dealing, measures."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_core.plugin.errors import UserError
from ssm_data.lm.corpus import Block, Dealt, between_blank_lines, deal_documents, deal_positions
from ssm_data.lm.measure import Measure
from ssm_data.lm.packing import Packer, TokenizerPlace, pack
from ssm_data.lm.tokenizer import (
    LONGEST,
    BpeTokenizer,
    ByteTokenizer,
    between_characters,
    decode,
    id_type,
    train_bpe,
)
from ssm_data.lm.words import WordTokenizer, learn_words

TEXT = (
    "The cat sat on the mat.  It was a café; naïve 日本 words, tabs\tand more.\n\nA new line about the cat,\n"
    "and the dog that sat on the cat 1234567890 times.\n"
) * 20


@lru_cache
def bpe() -> BpeTokenizer:
    return BpeTokenizer(train_bpe(iter(TEXT.split("\n")), 400, "the test's text"))


def words() -> WordTokenizer:
    return WordTokenizer(learn_words([b"b a b\na  b c\n"]))


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
    )
)
def test_every_tokeniser_gives_back_any_bytes(data: bytes) -> None:
    for tokenizer in (ByteTokenizer(), bpe()):
        ids = tokenizer.encode(data)
        assert ids.dtype == id_type(len(tokenizer.vocabulary))
        assert decode(tokenizer, ids) == data


@pytest.mark.parametrize(
    "text",
    [
        "  two  blanks ",
        "tab\tCRLF\r\nNBSP\u00a0e\u0301",
        "\u2581 itself",
        "zero\0byte",
        "<0x41> </s> <unk> <s>",
        "\n\n",
        "",
    ],
)
def test_what_sentencepiece_alone_would_lose_comes_back(text: str) -> None:
    assert decode(bpe(), bpe().encode(text.encode())) == text.encode()


def test_pieces_learn_and_control_ids_stay_apart() -> None:
    ids = bpe().encode(TEXT.encode())
    assert len(ids) < len(TEXT.encode()) / 2
    assert bpe().end == 3
    assert 3 not in ids
    assert "\u2581the" in bpe().vocabulary
    again = train_bpe(iter(TEXT.split("\n")), 400, "the test's text")
    assert BpeTokenizer(again).vocabulary == bpe().vocabulary
    with pytest.raises(UserError, match=r"no byte-pair encoding .* the test's text"):
        train_bpe(iter([]), 400, "the test's text")


def packed(tmp_path, tokenizer, parts: list[tuple[bytes, bool]]) -> dict[str, np.ndarray]:
    packer = Packer(tmp_path, "train", tokenizer)
    for text, begins in parts:
        packer.add(text, begins)
    return packer.close()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12))
def test_how_the_stream_is_cut_does_not_change_the_ids(tmp_path_factory, places: list[int]) -> None:
    data = (TEXT * 40).encode()
    assert len(data) > LONGEST
    cuts = sorted({place * 3 % len(data) for place in places} | {0})
    parts = [(data[a:b], a == 0) for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]
    folder = tmp_path_factory.mktemp("pack")
    for tokenizer in (bpe(), words()):
        got = packed(folder, tokenizer, parts)["tokens"]
        whole = tokenizer.encode(data)
        assert np.array_equal(got[: len(whole)], whole)
        assert len(got) - len(whole) == (tokenizer.end is not None)


def test_a_line_without_end_is_cut_and_comes_back(tmp_path) -> None:
    line = ("é" * 150_001).encode()
    got = packed(tmp_path, bpe(), [(line, True)])["tokens"]
    assert decode(bpe(), got) == line
    assert between_characters("aé".encode() * 2, 2) == 1


def test_documents_are_where_they_begin(tmp_path) -> None:
    got = packed(tmp_path, ByteTokenizer(), [(b"abc", True), (b"de", False), (b"f", True), (b"", True)])
    assert got["tokens"].tobytes() == b"abcdef"
    assert got["documents"].tolist() == [0, 5, 6, 6]
    ended = packed(tmp_path, bpe(), [(b"the cat", True), (b"the dog", True)])
    ends = np.flatnonzero(ended["tokens"] == 3)
    assert ends.tolist() == [ended["documents"][1] - 1, len(ended["tokens"]) - 1]
    assert (ended["tokens"].dtype, got["tokens"].dtype) == (np.uint16, np.uint8)


def test_words_go_by_frequency_and_every_line_ends() -> None:
    tokenizer = words()
    assert tokenizer.vocabulary == ["<eos>", "b", "a", "c", "<unk>"]
    assert tokenizer.encode(b" a b\n\nzebra c\n").tolist() == [2, 1, 0, 0, 4, 3, 0]
    assert learn_words([b"one on", b"e two"]) == learn_words([b"one one two"])


@given(st.integers(3, 200), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 5))
@settings(deadline=None)
def test_documents_are_dealt_in_their_shares(n, validation, test, seed) -> None:
    blocks = [block for i in range(n) for block in (Block(b"%d," % i, True), Block(b"x", False))]
    dealt = list(deal_documents(blocks, validation, test, seed))
    begun = [split for split, _, begins in dealt if begins]
    assert [split for split, _, begins in dealt if not begins] == begun
    assert abs(begun.count("test") - n * test) <= 1
    assert abs(begun.count("validation") - n * validation) <= 2
    assert [d.text for d in dealt] == [b.text for b in blocks]


def test_positions_are_cut_at_lines() -> None:
    lines = [b"line %03d\n" % i for i in range(100)]
    data = b"".join(lines)
    for size in (7, 100, 10_000):
        blocks = [Block(data[i : i + size], i == 0) for i in range(0, len(data), size)]
        dealt = list(deal_positions(blocks, len(data), 0.1, 0.2))
        by_split = {
            name: b"".join(d.text for d in dealt if d.split == name)
            for name in ("train", "validation", "test")
        }
        assert b"".join(by_split.values()) == data
        assert sum(d.begins for d in dealt) == 3
        for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            assert abs(len(by_split[name]) - share * len(data)) <= max(9, size)
            if size > 7:
                assert by_split[name].endswith(b"\n")


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("size", [500, 10_000])
def test_a_text_of_one_line_is_cut_at_the_places(end: bytes, size: int) -> None:
    data = b"hello world " * 100 + end
    blocks = [Block(data[i : i + size], i == 0) for i in range(0, len(data), size)]
    found = dict.fromkeys(("train", "validation", "test"), 0)
    for split, text, _ in deal_positions(blocks, len(data), 0.1, 0.05):
        found[split] += len(text)
    assert sum(found.values()) == len(data)
    assert abs(found["validation"] - 0.1 * len(data)) <= 1
    assert abs(found["test"] - 0.05 * len(data)) <= 1


@pytest.mark.parametrize("letter", ["é", "字", "🙂"])
def test_a_text_without_lines_is_cut_between_characters(letter: str) -> None:
    data = letter.encode() * 101
    for share in np.linspace(0.05, 0.2, 16):
        dealt = list(deal_positions([Block(data, True)], len(data), share, share))
        assert b"".join(text for _, text, _ in dealt) == data
        assert [split for split, _, begins in dealt if begins] == ["train", "validation", "test"]
        for _, text, _ in dealt:
            assert set(text.decode()) == {letter}


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_documents_between_blank_lines(tmp_path, monkeypatch, block: int) -> None:
    text = b"one\nstill one\n\n\ntwo\n\nthree\n\n"
    (tmp_path / "a.txt").write_bytes(text)
    cuts = lambda file: (text[i : i + block] for i in range(0, len(text), block))  # noqa: E731
    monkeypatch.setattr("ssm_data.lm.corpus.read_blocks", cuts)
    documents: list[bytes] = []
    for part, begins in between_blank_lines([tmp_path / "a.txt"]):
        documents += [b""] if begins else []
        documents[-1] += part
    assert documents == [b"one\nstill one\n\n\n", b"two\n\n", b"three\n\n"]


@settings(deadline=None, max_examples=30)
@given(st.text(alphabet="ab \n\té日", max_size=60))
def test_bytes_and_words_are_counted_whatever_the_tokens(text: str) -> None:
    data = b" " + text.encode()
    for tokenizer in (ByteTokenizer(), bpe()):
        ids = torch.from_numpy(tokenizer.encode(data).astype(np.int64))
        measure, lines = Measure(tokenizer), Measure(tokenizer, count_newlines=True)
        n = len(re.findall(rb"[^ \n\t]+", data))
        assert measure.bytes(ids).sum() == len(data)
        # The corpus begins as after a blank, or after a document's end.
        before = torch.cat([torch.tensor([32 if tokenizer.end is None else tokenizer.end]), ids[:-1]])
        assert measure.words(before, ids).sum() == n
        assert lines.words(before, ids).sum() == n + data.count(b"\n")


def test_at_word_level_every_token_is_a_word() -> None:
    tokenizer = words()
    ids = torch.from_numpy(tokenizer.encode(b"a b\nc\n").astype(np.int64))
    measure = Measure(tokenizer, count_newlines=True)
    assert measure.words(ids[:-1], ids[1:]).tolist() == [1] * (len(ids) - 1)
    assert measure.bytes(ids).tolist() == [2, 2, 2, 2, 2]
    text = b" \n = Cat = \n \n A cat , and d\xc3\xa9j\xc3\xa0 vu . \n It sat . \n"
    tokenizer = WordTokenizer(learn_words([text]))
    ids = torch.from_numpy(tokenizer.encode(text).astype(np.int64))
    measure = Measure(tokenizer, count_newlines=True)
    assert (
        measure.bytes(ids).sum()
        == Measure(ByteTokenizer()).bytes(torch.tensor(list(text))).sum()
        == len(text)
    )
    assert measure.words(ids[:-1], ids[1:]).tolist() == [1] * (len(ids) - 1)


def make_corpus(tmp_path, texts: dict[str, bytes], calls: list | None = None):
    def deal():
        if calls is not None:
            calls.append(1)
        return (Dealt(split, text, True) for split, text in texts.items())

    return pack(tmp_path, "t", {"x": 1}, TokenizerPlace("byte"), deal, lambda name, _: name)


def test_packing_is_done_once_and_leaves_nothing_beside(tmp_path) -> None:
    calls: list[int] = []
    texts = {"train": b"abcd", "validation": b"ef", "test": b"gh"}
    with pytest.raises(UserError):
        make_corpus(tmp_path, {**texts, "test": b""})
    (held,) = [path for path in (tmp_path / "t").iterdir() if path.is_dir()]
    rubble = tmp_path / "t" / f".{held.name}.packing"  # as a killed process leaves it
    rubble.mkdir()
    (rubble / "train.tokens").write_bytes(b"half of it")
    parts = make_corpus(tmp_path, texts, calls)
    assert make_corpus(tmp_path, texts, calls)["train"] == parts["train"]
    assert calls == [1]
    assert parts["train"].open("tokens").tobytes() == b"abcd"
    assert not list((tmp_path / "t").glob(".*packing"))


def test_failure_leaves_no_half_cache(tmp_path) -> None:
    with pytest.raises(UserError, match=r"the test split gets 1 tokens"):
        make_corpus(tmp_path, {"train": b"abcd", "validation": b"ef", "test": b"g"})
    left = [path for path in (tmp_path / "t").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_a_full_disk_is_told(tmp_path, monkeypatch) -> None:
    def full(self: Packer, ids: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Packer, "_write", full)
    with pytest.raises(UserError, match="No space left"):
        make_corpus(tmp_path, {"train": b"abcd", "validation": b"ef", "test": b"gh"})
    assert not list((tmp_path / "t").glob(".*packing"))


def test_id_types() -> None:
    assert [id_type(n).name for n in (256, 257, 65536, 65537)] == ["uint8", "uint16", "uint16", "uint32"]
