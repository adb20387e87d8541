"""What a bench says of contenders that fail, compute something else, or want their operands laid out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssm_core.bench.harness import compare, errors_of, tolerance
from ssm_core.bench.kernels import cases
from ssm_core.bench.kernels.large import large_cases
from ssm_core.ops import linear_scan

CPU = torch.device("cpu")


def turned(operands: Sequence[Tensor]) -> list[Tensor]:
    return [x.mT.contiguous() for x in operands]


def broken(*_: Tensor) -> Tensor:
    raise ValueError("no\nway")


def test_each_contender_gets_what_it_deserves():
    seen = []

    def native(a: Tensor, b: Tensor) -> Tensor:
        seen.append(a.shape)
        return linear_scan(a.mT, b.mT)[0]

    peers = {
        "right": lambda a, b: linear_scan(a, b)[0],
        "wrong": lambda a, b: linear_scan(a, b)[0] * 1.01,
        "broken": broken,
    }
    case = cases.real_scan(16, 2, 3, alone=True)
    case = replace(case, peers=peers, native={"right": (native, turned)})
    rows = {row["who"]: row for row in compare(case, 2, 1e9, CPU)}
    assert set(seen) == {(2, 3, 16)}
    assert len(seen) == 6  # forward, and forward with backward: one round to warm up and two timed
    assert rows["right"]["times_ours"]
    assert rows["wrong"]["error"] == pytest.approx(0.01, rel=0.2)
    assert rows["wrong"]["both_ms"] is None
    assert rows["broken"]["error"] == "ValueError: no"
    assert len({tuple(row) for row in rows.values()}) == 1


def test_our_own_failure_is_no_row():
    with pytest.raises(ValueError, match="no"):
        compare(replace(cases.real_scan(16, 2, 3, alone=True), ours=broken), 1, 1e9, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_are_rounded_before_the_definition_sees_them(dtype):
    for case in (cases.selective(40, 4, alone=True), cases.conv(40, 2, 4)):
        error = errors_of(replace(case, peers={}), CPU, dtype)["ours"]
        assert isinstance(error, float)
        assert error <= tolerance("ours", dtype)


def test_large_cases_have_floors_and_no_two_are_alike():
    found = list(large_cases(on_gpu=False))
    assert len({(case.name, case.shape) for case in found}) == len(found)
    assert all(0 < case.forward_floor < case.floor for case in found)
    assert all(case.real == (case.name in REAL and "complex" not in case.shape) for case in found)


REAL = ("selective_scan", "linear_scan", "causal_conv1d", "ssd_scan")
