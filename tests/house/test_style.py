from __future__ import annotations

import pytest

from workspace import ROOT, files


@pytest.mark.parametrize(
    "arguments", [["check", "--no-cache"], ["format", "--check", "--no-cache"]], ids=["lint", "format"]
)
def test_ruff_is_content(check, arguments):
    check("ruff", *arguments, ROOT)


def test_spelling(check):
    check("codespell", *[file.relative_to(ROOT) for file in files()])


def test_no_file_is_longer_than_400_lines():
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_bytes().splitlines()) for file in files("*.py")
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > 400} == {}, (
        "split them: one idea a file"
    )


def test_text_files_end_with_one_newline():
    plain = [
        file
        for file in files("*.py", "*.toml", "*.md", "*.yaml", "*.json", "justfile", ".ci/run")
        if file.stat().st_size
    ]
    bad = [file.relative_to(ROOT).as_posix() for file in plain if not _ends_well(file.read_bytes())]
    assert not bad


def _ends_well(data: bytes) -> bool:
    return data.endswith(b"\n") and not data.endswith(b"\n\n")
