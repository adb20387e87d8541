"""A scratch environment with third-party distributions in it, and ``ssm`` run there as a user would."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
TEMPLATES = ("backbone", "addon", "task")


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees all packages of this one, and has some of its own.

    Attributes:
        path: Where it lies.
    """

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def create(self) -> None:
        uv("venv", "--quiet", "--python", sys.executable, str(self.path))
        purelib = self.call(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").out
        lines = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
        (Path(purelib.strip()) / "_workspace.pth").write_text("\n".join(lines) + "\n")

    def install(self, *projects: Path, scratch: Path) -> None:
        """Build and install projects, from copies: uv's cache would not see a change of their sources."""
        copies = []
        for project in projects:
            copies.append(scratch / project.name)
            shutil.copytree(project, copies[-1], ignore=shutil.ignore_patterns("__pycache__"))
        uv("pip", "install", "--quiet", "--no-deps", "--python", str(self.python), *map(str, copies))

    def ssm(self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        return self.call(self.path / "bin" / "ssm", *argv, env=env, cwd=cwd)

    def call(self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        cleared = ("SSM_PLUGINS", "SSM_PLUGINS_BLOCK", "FORCE_COLOR", "GITHUB_ACTIONS", "PYTHONPATH")
        inherited = {name: value for name, value in os.environ.items() if name not in cleared}
        done = subprocess.run(
            [str(word) for word in argv],
            capture_output=True,
            text=True,
            env={**inherited, "COLUMNS": "200", **(env or {})},
            cwd=cwd or self.path,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


def uv(*words: str) -> None:
    """Run uv, from its cache if that holds the build backend (it does where this workspace was installed by uv)."""
    program = os.environ.get("UV") or shutil.which("uv")
    if program is None:
        pytest.skip("needs uv")
    failures = []
    for network in (["--offline"], []):
        done = subprocess.run(
            [program, *words, *network], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
        failures.append(done.stderr)
    pytest.fail(f"uv {' '.join(words)}:\n" + "\n".join(failures))


Share = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """Make a folder once for all workers: ``share(name, fill)`` returns it filled."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def shared(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / f"plugins-{name}", root / f"plugins-{name}.done"
        with FileLock(root / f"plugins-{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return shared


def _environment(share: Share, name: str, projects: list[Path]) -> Environment:
    def fill(folder: Path) -> None:
        environment = Environment(folder / "env")
        environment.create()
        environment.install(*projects, scratch=folder)

    return Environment(share(name, fill) / "env")


@pytest.fixture(scope="session")
def healthy(share: Share) -> Environment:
    """The command line and the good distribution."""
    return _environment(share, "healthy", [ROOT / "apps" / "ssm", FIXTURES / "good"])


@pytest.fixture(scope="session")
def mixed(share: Share) -> Environment:
    """The command line, and distributions of all sorts."""
    sorts = [FIXTURES / name for name in ("good", "broken", "clashing", "oldapi")]
    return _environment(share, "mixed", [ROOT / "apps" / "ssm", *sorts])


@pytest.fixture(scope="session")
def trained(healthy: Environment, share: Share) -> Done:
    """One run of the good distribution's own parts; the process that made it, standard output and all."""

    def fill(folder: Path) -> None:
        words = ("--backbone", "ema", "--addon", "scale", "--task", "echo", "--out", folder, "--seed", "1")
        done = healthy.ssm("train", *words)
        (folder / "done.json").write_text(json.dumps(vars(done)))

    return Done(**json.loads((share("trained", fill) / "done.json").read_text()))


@pytest.fixture(scope="session")
def written(share: Share, healthy: Environment) -> tuple[Environment, Path]:
    """An environment with one package of each kind, and the folder that they were written to."""

    def fill(folder: Path) -> None:
        packages = [folder / "own" / f"ssm-new-{kind}" for kind in TEMPLATES]
        for kind in TEMPLATES:
            assert healthy.ssm("new", kind, f"new-{kind}", "--out", folder / "own").code == 0
        environment = Environment(folder / "env")
        environment.create()
        environment.install(*packages, scratch=folder / "built")

    folder = share("written", fill)
    return Environment(folder / "env"), folder / "own"
