from __future__ import annotations

import gzip
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_data.lra_listops import read as reader
from ssm_data.lra_listops.generate import generate
from ssm_data.lra_listops.spec import ListOpsConfig
from ssm_data.lra_listops.value import values
from ssm_data.lra_listops.vocabulary import IDS, OPERATORS, VOCABULARY

LIMITS = {"min_length": 4, "max_length": 25, "max_depth": 4, "max_args": 4, "operator_share": 0.35}
SMALL = {**LIMITS, "n_train": 12, "n_validation": 5, "n_test": 4}


def rows(arrays: Any) -> list[list[str]]:
    cuts = itertools.pairwise(arrays["offsets"])
    return [[VOCABULARY[i] for i in arrays["values"][start:stop]] for start, stop in cuts]


def official(tokens: list[str]) -> str:
    """Write a list as the official files do: an operator takes its arguments one by one, in parentheses."""
    out, opened = [], []
    for token in tokens:
        if token.startswith("["):
            out.append(token)
            opened.append(len(out) - 1)
            continue
        if token == "]":
            begin = opened.pop()
            inside = out[begin:]
            folded = inside[0]
            for argument in inside[1:]:
                folded = f"( {folded} {argument} )"
            out[begin:] = [f"( {folded} ] )"]
        else:
            out.append(token)
    return out[0]


FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}


def write(folder: Path, suffix: str = "") -> dict[str, Any]:
    """Write lists of the published size in the official layout."""
    folder.mkdir(parents=True)
    config = ListOpsConfig(**SMALL, append_eos=False)
    splits = dict(generate(config, ("train", "validation", "test")))
    for name, file in FILES.items():
        lines = ["Source\tTarget"]
        for tokens, target in zip(rows(splits[name]), splits[name]["targets"], strict=True):
            lines.append(f"{official(tokens)}\t{target}")
        text = ("\n".join(lines) + "\n").encode()
        (folder / (file + suffix)).write_bytes(gzip.compress(text) if suffix else text)
    return splits


def task(root: Path, **knobs: Any) -> Any:
    return registry.build_task(
        "lra-listops", {"source": "local", "root": str(root), "cache": str(root / "c"), **knobs}
    )


@pytest.mark.parametrize(
    ("place", "suffix"),
    [
        ("listops-1000", ""),
        ("listops", ""),
        ("lra_release/listops-1000", ""),
        ("lra_release/lra_release/listops-1000", ""),
        ("listops", ".gz"),
    ],
)
@pytest.mark.parametrize("source", ["local", "auto"])
def test_official_files_are_read_where_they_lie(
    tmp_path: Path, place: str, suffix: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = write(tmp_path / place, suffix)
    assert "( ( [" in official(["[MAX", "1", "[SM", "2", "3", "]", "]"])
    with caplog.at_level(logging.INFO):
        splits = task(tmp_path, source=source).splits()
    assert f"files in the official layout in {tmp_path / place}" in caplog.text
    for name, split in splits.items():
        arrays = expected[name]
        assert np.array_equal(split.arrays["targets"], arrays["targets"])
        found = [[split.vocabulary[j] for j in split[i]["inputs"]] for i in range(len(split))]
        assert found == [[*tokens, "<eos>"] for tokens in rows(arrays)]
        assert split.provenance.startswith(f"official layout: {tmp_path / place / FILES[name]}")
        assert "sha256" in split.provenance
        assert "NOT the official size" in split.provenance


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path / "listops")
    assert len(task(tmp_path).splits()["test"]) == 4
    file = tmp_path / "listops" / "basic_test.tsv"
    file.write_text(file.read_text() + "[MAX 1 2 ]\t2\n")
    assert len(task(tmp_path).splits()["test"]) == 5


GOOD = "( ( ( [MAX 2 ) 9 ) ] )\t9"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "the file has no rows"),
        (b"Source\tTarget\n", "the file has no rows"),
        (b"Text\tTarget\n[MAX 1 2 ]\t2\n", "the header is not"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2 ]\n".encode(), "row 2: 1 columns, not 2"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2 ]\t2\t2\n".encode(), "row 2: 3 columns, not 2"),
        (f"Source\tTarget\n{GOOD}\n\n".encode(), "row 2: 1 columns, not 2"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2 ]\t10\n".encode(), "row 2: the label '10' is not one of 0 to 9"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2 ]\t²\n".encode(), "row 2: the label"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2 ]\tnan\n".encode(), "row 2: the label 'nan'"),
        (f'Source\tTarget\n{GOOD}\n"[MAX 1 2 ]"\t2\n'.encode(), "row 2: '\"\\[MAX' is no token of ListOps"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 12 ]\t2\n".encode(), "row 2: '12' is no token"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 [MIN 2 ]\t2\n".encode(), "row 2: its brackets do not match"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 2\t2\n".encode(), "row 2: its brackets do not match"),
        (f"Source\tTarget\n{GOOD}\n\t2\n".encode(), "row 2: a list of 0 tokens"),
        (f"Source\tTarget\n{GOOD}\n( [MAX ] )\t2\n".encode(), "row 2: an operator has no arguments"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 [MED ] 2 ]\t2\n".encode(), "row 2: an operator has no arguments"),
        (
            f"Source\tTarget\n{GOOD}\n( ( ( [MAX 3 ) 4 ) ] )\t7\n".encode(),
            "row 2: the label is 7.*comes to 4",
        ),
        (f"Source\tTarget\n{GOOD}\n5\t6\n".encode(), "row 2: the label is 6, and its list comes to 5"),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 ] [MIN 2 ]\t1\n".encode(), "row 2: its brackets do not match"),
        (
            f"Source\tTarget\n{GOOD}\n[MAX 1 ] ] [MIN [SM 2 ]\t1\n".encode(),
            "row 2: its brackets do not match",
        ),
        (f"Source\tTarget\n{GOOD}\n[MAX 1 ] ]\t1\n[MAX ]\t1\n".encode(), "row 2: its brackets do not match"),
        (f"Source\tTarget\n{GOOD}\n1 2\t1\n".encode(), "row 2: its brackets do not match"),
        (f"Source\tTarget\n{GOOD}\n]\t1\n".encode(), "row 2: its brackets do not match"),
        (
            f"Source\tTarget\n{GOOD}\n[MAX \xff ]\t2\n".encode("latin-1"),
            "row 2: byte 6 of the line is not UTF-8",
        ),
        (b"Source\tTarget\n[MAX " + b"1 " * 10_000_000 + b"]\t1\n", "row 1: a list of 10000002 tokens"),
    ],
)
def test_a_bad_file_gives_one_clear_error_and_no_cache(tmp_path: Path, lines: bytes, message: str) -> None:
    write(tmp_path / "listops")
    file = tmp_path / "listops" / "basic_val.tsv"
    file.write_bytes(lines)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).splits()
    assert str(file) in str(caught.value)
    left = {path.name for path in (tmp_path / "c").rglob("*") if path.is_file()}
    assert not any(path.is_dir() for path in (tmp_path / "c").glob("*/*/*validation*")), left


def by_hand(tokens: list[str]) -> int:
    """What a list comes to, by a stack of what is open."""
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token.startswith("["):
            stack.append([token])
        elif token == "]":
            operator, *x = stack.pop()
            found = {"[MIN": min(x), "[MAX": max(x), "[MED": int(np.median(x)), "[SM": sum(x) % 10}
            stack[-1].append(found[operator])
        else:
            stack[-1].append(int(token))
    return stack[0][0]


@st.composite
def lists(draw: Any, depth: int = 4) -> list[str]:
    """Lists of any shape: also with one argument, chains, digits alone."""
    if depth == 0 or draw(st.booleans()):
        return [str(draw(st.integers(0, 9)))]
    inside = draw(st.lists(lists(depth - 1), min_size=1, max_size=4))
    return [draw(st.sampled_from(OPERATORS)), *itertools.chain(*inside), "]"]


@given(st.lists(lists(), min_size=1, max_size=8))
def test_lists_come_to_what_one_finds_by_hand(found: list[list[str]]) -> None:
    ids = np.array([IDS[token] for token in itertools.chain(*found)], np.uint8)
    offsets = np.array([0, *itertools.accumulate(map(len, found))])
    assert values(ids, offsets).tolist() == [by_hand(tokens) for tokens in found]


def test_many_arguments_and_deep_lists_have_their_values() -> None:
    wide = ["[SM", *("7" for _ in range(1500)), "]"]
    deep = [*("[MED", "1") * 900, "9", *["]"] * 900]
    offsets = np.array([0, len(wide), len(wide) + len(deep)])
    found = values(np.array([IDS[token] for token in wide + deep], np.uint8), offsets)
    assert found.tolist() == [1500 * 7 % 10, by_hand(deep)]


@pytest.mark.parametrize("row", [1, 3, 4, 7, 8])
def test_a_wrong_label_is_named_with_its_row_in_any_block(
    tmp_path: Path, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK", 4)
    lines = ["Source\tTarget", *([GOOD] * 8)]
    lines[row] = "[MAX 3 4 ]\t7"
    (tmp_path / "x.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"x\.tsv, row {row}: the label is 7, and its list comes to 4"):
        reader.read(tmp_path / "x.tsv", 2000, True)
    (tmp_path / "x.tsv").write_text("\n".join([*lines[:row], GOOD, *lines[row + 1 :]]) + "\n")
    assert reader.read(tmp_path / "x.tsv", 2000, True)["targets"].tolist() == [9] * 8


def test_a_truncated_archive_is_told(tmp_path: Path) -> None:
    write(tmp_path / "listops", ".gz")
    file = tmp_path / "listops" / "basic_test.tsv.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=r"basic_test\.tsv\.gz, row \d+: the compressed file is damaged or cut short"
    ):
        task(tmp_path).splits()
    file.write_bytes(b"not gzip at all")
    with pytest.raises(UserError, match=r"basic_test\.tsv\.gz"):
        task(tmp_path).splits()


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    from ssm_data import tsv

    (tmp_path / "x.tsv").write_bytes(b"a\tb\n" + b"1" * 200)
    with pytest.raises(UserError, match="row 2: a line of more than 100 bytes"):
        list(tsv.rows(tmp_path / "x.tsv", ("a", "b"), longest=100))


def test_absent_files_are_an_error_or_made_here_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"found no official files \(basic_train.tsv") as caught:
        task(tmp_path).splits()
    assert str(tmp_path / "listops-1000") in str(caught.value)
    assert "(and so below lra_release and lra_release/lra_release)" in str(caught.value)
    assert "--set task.source=generate" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        task(tmp_path, source="auto", n_train=3, n_validation=2, n_test=1).splits()
    assert "n_train, n_validation, n_test ask for made ones; lists are made here" in caplog.text
    assert "not the official ones" in caplog.text


def test_a_root_that_is_named_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssm_data.lra_listops.dataset.generate", lambda *_: iter(()))
    with pytest.raises(UserError, match="found no official files") as caught:
        task(tmp_path / "nowhere", source="auto").splits()
    assert f"\n    {tmp_path / 'nowhere' / 'listops'}\n" in str(caught.value)
    write(tmp_path / "mine", ".gz")
    for source in ("auto", "local"):
        said = task(tmp_path / "mine", source=source).splits()["test"].provenance
        assert said.startswith(f"official layout: {tmp_path / 'mine' / 'basic_test.tsv.gz'}")


def test_without_a_root_lists_are_made_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ListOpsConfig(**SMALL)
    few = dict(generate(config, ("train", "validation", "test")))
    monkeypatch.setattr("ssm_data.lra_listops.dataset.generate", lambda *_: iter(few.items()))
    with caplog.at_level(logging.WARNING):
        made = registry.build_task("lra-listops", {"cache": str(tmp_path / "c")}).splits()
    assert made["train"].provenance.startswith("regenerated")
    assert "no official files were found; lists are made here" in caplog.text


@pytest.mark.parametrize("named", [True, False])
def test_a_part_of_the_files_is_neither_read_nor_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.delenv("SSM_DATA_ROOT", raising=False)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setattr("ssm_data.lra_listops.dataset.generate", lambda *_: iter(()))
    write(tmp_path / "listops-1000")
    (tmp_path / "listops-1000" / "basic_val.tsv").unlink()
    given = {"root": str(tmp_path)} if named else {}
    with pytest.raises(UserError, match=r"listops-1000 has some .* but not basic_val\.tsv \(nor with \.gz\)"):
        registry.build_task("lra-listops", {**given, "cache": str(tmp_path / "c")}).splits()
    whole = write(tmp_path / "listops")
    splits = registry.build_task("lra-listops", {**given, "cache": str(tmp_path / "c")}).splits()
    assert np.array_equal(splits["validation"].arrays["targets"], whole["validation"]["targets"])


def test_knobs_of_the_generator_are_not_silently_dropped(tmp_path: Path) -> None:
    write(tmp_path / "listops")
    splits = task(tmp_path, source="auto", **SMALL).splits()
    assert splits["train"].provenance.startswith("regenerated"), "the files have no such lists"
    with pytest.raises(ConfigError, match="leave out min_length, max_length"):
        task(tmp_path, max_length=100, min_length=50)


def test_a_new_reader_does_not_take_the_old_one_s_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "listops")
    old = task(tmp_path).splits()["test"].part.folder
    monkeypatch.setattr("ssm_data.lra_listops.dataset.READER", reader.READER + 1)
    assert task(tmp_path).splits()["test"].part.folder != old
