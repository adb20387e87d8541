"""The definition of every operation fits on a screen: at most 40 lines, or nobody reads what the others are held to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssm_core import ops
from ssm_core.opkit import dispatch

OPS = Path(ops.__file__).parent
REFERENCES = sorted(OPS.glob("*/reference.py"))


@pytest.mark.parametrize("file", REFERENCES, ids=lambda file: file.parent.name)
def test_a_reference_has_at_most_40_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


def test_every_operation_has_one():
    homes = {name for name, operation in dispatch.OPERATIONS.items() if operation.package == dispatch.HOME}
    assert homes == {file.parent.name for file in REFERENCES}
