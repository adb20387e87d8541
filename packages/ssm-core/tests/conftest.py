from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssm_core.plugin import registry

FIXTURES = Path(__file__).parent / "fixtures"

TOYS = {
    "ssm.backbones": {"toy_backbone": "toy_plugins.spec:BACKBONE", "toy_rigid": "toy_plugins.spec:RIGID"},
    "ssm.addons": {
        "toy_scale": "toy_plugins.spec:SCALE",
        "toy_twice": "toy_plugins.spec:TWICE",
        "toy_mirror": "toy_plugins.spec:MIRROR",
    },
    "ssm.tasks": {"toy_task": "toy_plugins.spec:TASK"},
    "ssm.recipes": {"toy": "toy_plugins.recipes"},
}


def pytest_configure() -> None:
    # The suites' tensors are tiny: more threads than one only get in the way of the other workers.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class Site:
    """A folder on ``sys.path`` into which distributions are put as an installer would: a dist-info, and modules."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self,
        name: str,
        points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """Put in a distribution.

        Args:
            name: Its name.
            points: Entry-point group -> name -> value.
            modules: Module name -> source.
            version: Its version.
        """
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: all about {name}\n"
        )
        groups = (
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items())
            for group, rows in points.items()
        )
        (info / "entry_points.txt").write_text("\n".join(groups))
        for module, source in (modules or {}).items():
            (self.path / f"{module}.py").write_text(source)
        registry.found.cache_clear()


@contextmanager
def scratch_site(path: Path, modules: tuple[str, ...] = ()) -> Iterator[Site]:
    """Put a folder first on ``sys.path``, and take all of it back."""
    path.mkdir(exist_ok=True)
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in modules:
            patch.syspath_prepend(name)
        patch.syspath_prepend(path)
        registry.found.cache_clear()
        yield Site(path)
    registry.found.cache_clear()
    own = [name for name in sys.modules if name not in known and name.startswith(("toy_", "fake_"))]
    for name in own:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A scratch site for fake distributions."""
    with scratch_site(tmp_path / "site") as site:
        yield site


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The distribution toy-plugins: a backbone, add-ons, a task and recipes, found as any third party's."""
    with scratch_site(tmp_path_factory.mktemp("toys"), (str(FIXTURES),)) as site:
        site.install("toy-plugins", TOYS, version="2.5")
        yield site


@pytest.fixture
def fresh_registry() -> Iterator[Callable[[], None]]:
    """Forget what the registry found, before and after; call it after changing the environment."""
    registry.found.cache_clear()
    yield registry.found.cache_clear
    registry.found.cache_clear()
