from __future__ import annotations

import subprocess
import sys

import pytest

from workspace import ROOT, members

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def fresh(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "fresh_env.py", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


@pytest.mark.parametrize("name", [member.name for member in members()])
def test_a_package_passes_its_tests_alone(name):
    fresh("alone", name)


def test_the_core_passes_its_tests_on_the_oldest_torch():
    fresh("oldest")
