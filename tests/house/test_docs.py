from __future__ import annotations

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

import snippets
from workspace import ROOT

# Seconds on a quiet machine; a busy one takes its time over so many processes.
pytestmark = pytest.mark.timeout(1800)

SNIPPETS = snippets.snippets()
PAGES = {page: list(group) for page, group in groupby(SNIPPETS, key=lambda snippet: snippet.page)}
RUNNING = {page: group for page, group in PAGES.items() if any(snippet.runs for snippet in group)}


def test_the_documentation_builds_without_a_warning(check, tmp_path):
    check(
        "sphinx-build",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "trees",
        "docs",
        tmp_path / "html",
    )
    assert (tmp_path / "html" / "index.html").is_file()


@pytest.mark.parametrize("page", sorted(RUNNING))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Run the blocks of a page as a reader would: in an empty folder, from top to bottom."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for snippet in RUNNING[page]:
        if not snippet.runs:
            continue
        if snippet.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", snippet.code], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{page}:{snippet.line}\n{done.stdout}{done.stderr}"
        else:
            # Blank lines in front make the line numbers of a traceback those of the page.
            source = "\n" * (snippet.line - 1) + snippet.code
            exec(compile(source, str(ROOT / page), "exec"), namespace)


def test_data_in_the_documentation_can_be_read():
    for snippet in SNIPPETS:
        snippets.parse(snippet)


def test_every_block_is_in_a_known_language():
    unknown = [f"{s.page}:{s.line}: '{s.language}'" for s in SNIPPETS if s.language not in snippets.LANGUAGES]
    assert unknown == [], f"use one of {', '.join(snippets.LANGUAGES)}"


def test_a_block_that_does_not_run_says_why():
    silent = [
        f"{s.page}:{s.line}"
        for s in SNIPPETS
        if s.language in snippets.RUN and not s.runs and len(s.reason) < 8
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("```python\n1\n```\n", "python", ""),
        ("x\n<!-- not run: an hour -->\n```bash\nls\n```\n", "bash", "an hour"),
        ("```toml\na = 1\n```\n", "toml", ""),
        ("```{knobs} task x\n```\n```text\n.\n```\n", "text", ""),
        ("```\nls\n```\n", "", ""),
    ],
)
def test_blocks_are_found(text, language, reason):
    (snippet,) = snippets.read("page.md", text)
    assert (snippet.language, snippet.reason) == (language, reason)
