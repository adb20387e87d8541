from __future__ import annotations

import subprocess
import sys

import pytest

from workspace import members

LIGHT = (
    "ssm_core",
    "ssm_core.plugin",
    "ssm_core.plugin.config",
    "ssm_core.plugin.errors",
    "ssm_core.plugin.registry",
    "ssm_core.plugin.spec",
    "ssm_core.run.config",
    "ssm_core.run.folder",
    "ssm_core.run.recipes",
)
"""What listing, help, checking and documentation import."""

PLUGINS = [point for member in members() for point in member.entry_points() if point[0] != "ssm.commands"]

SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"torch", "numpy"} & set(sys.modules)
    if heavy:
        sys.exit(f"importing {name} loads {', '.join(sorted(heavy))}")
"""


def test_import_contracts_hold(check):
    check("lint-imports", "--no-cache")


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(LIGHT, id="contract"),
        pytest.param([value.partition(":")[0] for _, _, value in PLUGINS], id="specs"),
    ],
)
def test_nothing_heavy_is_imported_to_describe(modules):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_check_above_can_fail():
    done = subprocess.run([sys.executable, "-c", SCRIPT, "numpy"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "importing numpy loads numpy" in done.stderr


@pytest.mark.parametrize("name", [member.module for member in members()])
def test_importing_a_package_is_free_of_heavy_work(name):
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
