"""What a generator draws for its number is fixed: who changes the rows has to raise the number, or caches go stale."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssm_data

SMALL: dict[str, Any] = {"n_train": 12, "n_validation": 4, "n_test": 4}

# Module with the number, knobs, the number, and the sha256 of its training rows. Only rows that no floating point goes
# into: sines, and pictures drawn by them, may differ in last bits from one machine to another.
PINNED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "mqar": (
        "ssm_data.mqar.draw",
        SMALL,
        1,
        "8a247e201f052280e53eb09e121e0cd889541964a174cdf5ae833a366939930c",
    ),
    "induction-heads": (
        "ssm_data.induction_heads.draw",
        SMALL,
        1,
        "b75ec416a4cec6eacb18c034cafa12ac4805999022158806e009535e93f2ae14",
    ),
    "selective-copying": (
        "ssm_data.selective_copying.draw",
        SMALL,
        1,
        "54504366a80a3afa37baf39a38ee9069c02986c343b8d828e6743bfc62c96ec5",
    ),
    "lra-listops": (
        "ssm_data.lra_listops.generate",
        {**SMALL, "source": "generate"},
        1,
        "255a80d03972112bba102be5a9663c528e0e4209918d1300574afb6df1ea7e0a",
    ),
}


@pytest.mark.parametrize("task", PINNED)
def test_rows_are_those_of_the_number(task: str, tmp_path: Path) -> None:
    module, knobs, number, expected = PINNED[task]
    current = import_module(module).GENERATOR
    assert current == number, "a new number: pin its rows here"
    arrays = ssm_data.load(task, "train", cache=str(tmp_path), **knobs).arrays
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        assert array.dtype.kind in "iu", name
        found.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    assert found.hexdigest() == expected, f"{task} draws other rows: raise {module}.GENERATOR"
