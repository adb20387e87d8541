from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssm_core.plugin import registry
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_lab.main import main

Plain = Callable[..., "Result"]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "SSM_PLUGINS", "SSM_PLUGINS_BLOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    registry.found.cache_clear()


@pytest.fixture
def ssm(capsys: pytest.CaptureFixture[str]) -> Plain:
    """Run a command in this process."""

    def run(*argv: str | Path) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, Any], None]:
    """Put a function in the place of a lazy name of a package, without the import that looking at it would be."""
    return lambda package, name, value: monkeypatch.setitem(vars(package), name, value)


@pytest.fixture
def ssm_process() -> Plain:
    """Run a command in a process of its own."""

    def run(*argv: str, env: Mapping[str, str] | None = None, code: str = "") -> Result:
        command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "ssm_lab"]
        done = subprocess.run(
            [*command, *argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Make a run folder without training."""

    def make(tree: Mapping[str, Any] | None = None, **more: Any) -> RunFolder:
        base = {"backbone": {"name": "s5"}, "addons": {"smr": {}}, "task": {"name": "pendulum"}}
        return RunFolder.create(tmp_path / "runs", RunConfig.from_tree({**base, **(tree or {}), **more}))

    return make
