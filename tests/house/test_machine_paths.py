from __future__ import annotations

import re
from pathlib import Path

import pytest

from workspace import ROOT, texts

FOLDERS = ("home", "root", "Users", "work")
HERE = [str(folder) for folder in (ROOT.parent, Path.home()) if len(folder.parts) > 1]
MACHINE = re.compile(
    r"(?<![\w.~$}])(" + "|".join([*(f"/{name}" for name in FOLDERS), *map(re.escape, HERE)]) + r")/\w"
)


def test_no_file_names_a_path_of_one_machine():
    assert [name for name, text in texts() if MACHINE.search(text)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_one_would_be_seen(folder):
    assert MACHINE.search(f'open("/{folder}/ada/x")')
    assert MACHINE.search(f"cd {ROOT}/docs")


@pytest.mark.parametrize("folder", FOLDERS)
def test_others_are_left_alone(folder):
    for before in ("docs", "~", "$TOP", "https://example.org"):
        assert not MACHINE.search(f"{before}/{folder}/x")
