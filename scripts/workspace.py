"""What stands in this workspace: its root, its members, its tracked files. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Member:
    """One distribution of the workspace.

    Attributes:
        name: Distribution name, such as ``ssm-core``.
        folder: Its folder.
        project: The ``[project]`` table of its ``pyproject.toml``.
    """

    name: str
    folder: Path
    project: dict[str, Any]

    @property
    def module(self) -> str:
        """Name of its import package."""
        (source,) = (self.folder / "src").iterdir()
        return source.name

    @property
    def version(self) -> str:
        """Its version."""
        return self.project["version"]

    def entry_points(self) -> list[tuple[str, str, str]]:
        """Return (group, name, value) of every entry point in a group of ours."""
        groups = self.project.get("entry-points", {})
        return [(group, name, value) for group, points in groups.items() for name, value in points.items()]


def members() -> list[Member]:
    """Return the members, sorted by name."""
    patterns = read_toml(ROOT / "pyproject.toml")["tool"]["uv"]["workspace"]["members"]
    files = [file for pattern in patterns for file in ROOT.glob(f"{pattern}/pyproject.toml")]
    projects = [(file.parent, read_toml(file)["project"]) for file in files]
    return sorted((Member(p["name"], folder, p) for folder, p in projects), key=lambda member: member.name)


def member(name: str) -> Member:
    """Return the member of a distribution name.

    Raises:
        SystemExit: If there is none.
    """
    known = {each.name: each for each in members()}
    if name not in known:
        raise SystemExit(f"there is no package '{name}' here; known: {', '.join(known)}")
    return known[name]


def siblings(of: Member) -> list[Member]:
    """Return the members that one depends on, directly or through another, itself first."""
    known = {each.name: each for each in members()}
    chain, queue = [], [of.name]
    while queue:
        here = known[queue.pop()]
        if here in chain:
            continue
        chain.append(here)
        optional = here.project.get("optional-dependencies", {}).values()
        wanted = [*here.project.get("dependencies", ()), *(line for lines in optional for line in lines)]
        names = [match[0] for line in wanted if (match := re.match(r"[\w.-]+", line))]
        queue += [name for name in names if name in known]
    return chain


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file."""
    return tomllib.loads(file.read_text(encoding="utf-8"))


def files(*patterns: str) -> list[Path]:
    """Return the files that git tracks, or would track if they were added, that match any of the glob patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = sorted(set(filter(None, listing.split("\0"))))
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def texts(*patterns: str) -> list[tuple[str, str]]:
    """Return (path from the root, content) of every text file among :func:`files`."""
    found = []
    for file in files(*patterns):
        data = file.read_bytes()
        if b"\0" not in data:
            found.append((file.relative_to(ROOT).as_posix(), data.decode("utf-8")))
    return found


def uv() -> str:
    """Return the path of uv: the one that runs this process, or the one on the PATH.

    Raises:
        SystemExit: If there is none.
    """
    found = os.environ.get("UV") or shutil.which("uv")
    if not found:
        raise SystemExit("uv is not on the PATH: pip install uv")
    return found


def tool(name: str) -> str:
    """Return the path of a command that the development group installs."""
    return str(Path(sys.executable).with_name(name))


def clean_environment() -> dict[str, str]:
    """Return the environment without what ties a process to this workspace's own virtual environment."""
    ties = {
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "UV_PROJECT_ENVIRONMENT",
        "UV_PROJECT",
        "PYTEST_ADDOPTS",
    }
    return {name: value for name, value in os.environ.items() if name not in ties and "PYTEST_" not in name}


def uv_settings() -> dict[str, Any]:
    """Return the ``[tool.uv]`` table."""
    return read_toml(ROOT / "pyproject.toml")["tool"]["uv"]
