from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from ssm_lab import scaffold

FILES = {
    "backbone": {"layer.py", "test_backbone.py"},
    "addon": {"layer.py", "test_addon.py"},
    "task": {"task.py", "test_task.py"},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_whole_package_is_written(ssm, tmp_path, kind):
    done = ssm("new", kind, "my-own_1", "--out", tmp_path)
    folder = tmp_path / "ssm-my-own-1"
    assert (done.code, done.out) == (0, f"{folder}\n")
    assert f"next: uv pip install -e '{folder}[testing]' && uv run pytest {folder}" in done.err
    written = {path.name for path in folder.rglob("*") if path.is_file()}
    assert written == {"pyproject.toml", "README.md", "__init__.py", "spec.py"} | FILES[kind]
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"] == {f"ssm.{kind}s": {"my-own_1": "ssm_my_own_1.spec:SPEC"}}
    assert "ssm-core>=0.1,<0.2" in project["project"]["dependencies"]
    for path in folder.rglob("*.py"):
        ast.parse(path.read_text())
        assert "$" not in path.read_text()
        assert max(map(len, path.read_text().splitlines())) <= 110
    spec = (folder / "src" / "ssm_my_own_1" / "spec.py").read_text()
    assert "api=1," in spec
    assert "import torch" not in spec


def test_the_tests_that_are_written_are_five_lines(tmp_path):
    folder = scaffold.write("backbone", "mine", tmp_path)
    lines = (folder / "tests" / "test_backbone.py").read_text().splitlines()
    assert len([line for line in lines if line]) <= 5


def test_names_of_distributions():
    assert scaffold.values("addon", "gate")["dist"] == "ssm-gate"
    assert scaffold.values("addon", "ssm-gate")["dist"] == "ssm-gate"
    assert scaffold.values("addon", "ssm")["dist"] == "ssm-ssm"
    assert scaffold.values("addon", "short_gate")["cls"] == "ShortGate"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("backbone", "S7", "cannot be the name"),
        ("backbone", "../x", "cannot be the name"),
        ("backbone", "a--b", "cannot be the name"),
        ("backbone", "7up", "cannot be the name"),
        ("backbone", "s5", "there is a backbone 's5' already, from ssm-core"),
        ("task", "data", "a package 'ssm_data' is installed already"),
        ("probe", "x", "there is no template for 'probe'"),
    ],
)
def test_names_that_cannot_be_used(ssm, tmp_path, kind, name, message):
    done = ssm("new", kind, name, "--out", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(ssm, tmp_path):
    ssm("new", "addon", "gate", "--out", tmp_path)
    done = ssm("new", "addon", "gate", "--out", tmp_path)
    assert done.code == 2
    assert "exists already" in done.err


def test_where_nothing_can_be_written(ssm, tmp_path):
    (tmp_path / "file").touch()
    done = ssm("new", "addon", "gate", "--out", tmp_path / "file")
    assert done.code == 2
    assert "cannot write" in done.err or "exists already" in done.err


def test_the_path_is_absolute(ssm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(ssm("new", "addon", "gate").out.strip()) == tmp_path / "ssm-gate"
