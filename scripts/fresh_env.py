"""Runs a package's own tests in a fresh environment that holds that package, what it asks for, and nothing else.

Usage:
    python scripts/fresh_env.py alone ssm-core    built wheels, third-party versions of requirements.lock
    python scripts/fresh_env.py oldest            ssm-core on the oldest torch it promises to work with

A workspace shares one environment, so a package could import what only its neighbour asked for; this is where that is
seen. Wheels, environment and a copy of the tests lie in a temporary folder, away from the tree and its conftest.py.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workspace import ROOT, Member, clean_environment, member, siblings, uv, uv_settings

OLDEST_TORCH = "2.11"

PYTEST_INI = """\
[pytest]
addopts = --import-mode=importlib -p no:cacheprovider -m "not slow and not gpu"
markers =
    slow: long grids
    gpu: needs a CUDA device
"""


def run(command: Sequence[str | Path], where: Path) -> None:
    """Run a command, showing it; stop with its status if it fails."""
    print("+", *command, flush=True)
    # CI makes hypothesis repeatable and takes its deadline off, which a busy machine would miss.
    environment = clean_environment() | {"CI": "true"}
    status = subprocess.run([str(part) for part in command], cwd=where, env=environment).returncode
    if status:
        raise SystemExit(status)


def build_wheels(chosen: Member, where: Path) -> dict[str, Path]:
    """Build the wheels of a member and of those it depends on; return name -> file."""
    made: dict[str, Path] = {}
    for each in siblings(chosen):
        folder = where / each.name
        run([uv(), "build", "--quiet", "--wheel", "--package", each.name, "--out-dir", folder, ROOT], where)
        (made[each.name],) = folder.glob("*.whl")
    return made


def make_environment(chosen: Member, where: Path, constraints: Sequence[str]) -> Path:
    """Make an environment with a member and its test requirements; return its interpreter.

    Args:
        chosen: The member.
        where: Folder to work in.
        constraints: Further lines of a constraint file.
    """
    wheels = build_wheels(chosen, where / "wheels")
    run([uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, where / "env"], where)
    python = where / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # Given by file, the neighbours cannot be mistaken for something of their name on a package index.
    neighbours = [f"{name} @ {file.as_uri()}" for name, file in wheels.items() if name != chosen.name]
    (where / "constraints.txt").write_text("\n".join([*neighbours, *constraints]) + "\n", encoding="utf-8")
    extras = "cpu,testing" if "cpu" in chosen.project["optional-dependencies"] else "testing"
    install = [uv(), "pip", "install", "--quiet", "--no-config", "--python", python]
    install += ["--exclude-newer", uv_settings()["exclude-newer"], "--constraints", where / "constraints.txt"]
    run([*install, f"{chosen.name}[{extras}] @ {wheels[chosen.name].as_uri()}"], where)
    return python


def run_tests(chosen: Member, python: Path, where: Path, arguments: Sequence[str]) -> None:
    """Run a copy of a member's tests with an environment's interpreter."""
    tests = where / "run" / "tests"
    shutil.copytree(chosen.folder / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    (where / "run" / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
    run([python, "-m", "pytest", "-q", *arguments, "tests"], where / "run")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["alone", "oldest"])
    parser.add_argument("package", nargs="?", default="ssm-core", help="a distribution of this workspace")
    given, arguments = parser.parse_known_args()
    chosen = member(given.package)
    if given.what == "alone":
        constraints = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    else:
        constraints = [f"torch=={OLDEST_TORCH}.*"]
    with tempfile.TemporaryDirectory(prefix=f"{chosen.name}-") as folder:
        where = Path(folder).resolve()
        for part in ("wheels", "run"):
            (where / part).mkdir()
        python = make_environment(chosen, where, constraints)
        run([uv(), "pip", "list", "--quiet", "--python", python], where)
        run_tests(chosen, python, where, arguments)


if __name__ == "__main__":
    main()
