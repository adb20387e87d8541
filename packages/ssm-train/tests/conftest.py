"""Lets tests and the processes they start import ``toy_runs`` by name, and find its task by entry point."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ssm_core.plugin import registry

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put the toy task in as an installer would, here and in child processes."""
    site = tmp_path / "site"
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ssm.tasks]\ntoy = toy_task:SPEC\n")
    held = filter(None, [os.environ.get("PYTHONPATH")])
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), HERE, *held]))
    registry.found.cache_clear()
    yield
    monkeypatch.undo()
    registry.found.cache_clear()
