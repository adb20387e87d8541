"""Every registered bench runs, at a size that takes a second: its figures mean nothing, its checks do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssm_core.plugin import registry
from ssm_core.protocols import Result

SMALL: dict[str, dict[str, Any]] = {
    "feeding": {
        "tasks": "sine,irregular-csv",
        "seconds": 0.01,
        "repeats": 1,
        "share": "sine",
        "backbones": "s5",
        "steps": 2,
    },
    "generation": {"early": 3, "late": 20, "steps": 2, "d_model": 16, "only": "s5", "operations": True},
    "kernels": {"only": "cauchy", "repeats": 1, "long": False},
    "layers": {"lengths": "16,32", "tokens": 64, "d_model": 32, "repeats": 1},
    "s5-layer": {"batch": 2, "length": 33, "d_model": 8, "state_size": 8, "repeats": 1},
    "serpent": {"batch": 2, "length": 40, "width": 6, "long": 50, "repeats": 1},
    "smr": {"backbones": "s5", "lengths": "8,16", "width": 8, "layers": 1, "state": 4, "repeats": 1},
    "smr-gate": {"batch": 1, "length": 65, "width": 8, "repeats": 1},
}


TIMES = ("both_ms", "median_ms", "with_ms")
"""Columns for the time of a row that tells its error."""


@pytest.mark.parametrize("name", [entry.name for entry in registry.found("bench")])
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in SMALL:
        pytest.skip("not one of ours")
    monkeypatch.setenv("SSM_DATA_DIR", str(tmp_path))
    _, bench = registry.builder("bench", name)
    result = bench(registry.configure("bench", name, SMALL[name]))
    assert isinstance(result, Result)
    assert result.rows
    assert all(row.keys() == result.rows[0].keys() for row in result.rows)
    for row in result.rows:
        # A contender that computes something else gets its error and no time.
        times = [row[column] for column in TIMES if column in row]
        assert None not in times, f"no time, since it is wrong: {row}"
        assert times or "error" not in row
        assert row.get("same") is not False, f"workers hand out other batches: {row}"
    json.dumps({"figures": dict(result.figures), "rows": list(result.rows)}, allow_nan=False)


def test_every_bench_of_ours_is_small_enough_to_be_tested() -> None:
    ours = {entry.name for entry in registry.found("bench") if entry.dist.startswith("ssm-")}
    assert ours == set(SMALL)
