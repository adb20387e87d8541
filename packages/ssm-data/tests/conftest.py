from __future__ import annotations

from pathlib import Path

import pytest

SMALL = {"n_train": 6, "n_validation": 3, "n_test": 2}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests of a worker: never the user's."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def no_user_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSM_DATA_DIR", str(data_dir))


@pytest.fixture
def small() -> dict[str, int]:
    """Knobs of a data set that is made at once."""
    return dict(SMALL)
