"""Running the tools of the house."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from workspace import ROOT, tool

Check = Callable[..., None]


@pytest.fixture
def check() -> Check:
    """Return a function that runs a tool and fails with what it printed."""

    def run(name: str, *arguments: object, cwd: Path = ROOT) -> None:
        command = [tool(name), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{name} {' '.join(command[1:])}\n{done.stdout}{done.stderr}", pytrace=False)

    return run
