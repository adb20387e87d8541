"""The Triton kernels compile for three architectures, spill nothing and load wide, as their variants promise. No GPU.

All variants take a second or two each on every architecture, and are marked slow. What is always compiled is one
variant of every kernel for every type of tensor, the next such pair for the next architecture. Registers and stack are
held to what was measured (kernel_limits.json), registers up to where fewer programs fit on a multiprocessor.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

import kernel_table
from kernel_table import CAPABILITIES, modules, most_registers, occupancy, read_limits, variants

SHARED_MEMORY = 100 * 1024  # bytes of a program that leave room for two on every architecture

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1200),
]


def broken_promises(chosen: list, capability: int) -> list[str]:
    from ssm_core.opkit import triton_aot

    broken, limits = [], read_limits()
    for variant in chosen:
        about = triton_aot.compile(variant, capability)
        registers, stack = limits.get(variant.name, {}).get(str(capability), (255, variant.stack))
        registers = min(variant.registers, most_registers(registers, variant.num_warps))
        stack = min(variant.stack, stack)
        if about.stack > stack or (about.whole.local and not stack):
            broken.append(f"{variant.name} spills {about.stack} bytes, not {stack}")
        if about.registers > registers:
            broken.append(f"{variant.name} takes {about.registers} registers, not {registers}")
        if about.shared > SHARED_MEMORY:
            broken.append(f"{variant.name} takes {about.shared} bytes of shared memory")
        if variant.wide and not about.whole.wide_loads:
            broken.append(f"{variant.name} loads nothing in 128 bits")
    return broken


def sample(module: str) -> Iterator[tuple]:
    """(variant, architecture): of every kernel and set of types the next variant, for the next architecture."""
    kinds: dict[tuple, list] = {}
    for variant in variants(module):
        floats = frozenset(kind for kind in variant.signature.values() if kind.startswith(("*fp", "*bf")))
        kinds.setdefault((variant.kernel, floats), []).append(variant)
    first = modules().index(module)
    for place, every in enumerate(kinds.values(), start=first):
        yield every[place % len(every)], CAPABILITIES[place % len(CAPABILITIES)]


@pytest.mark.parametrize("module", modules())
def test_a_variant_of_every_kernel_and_type_keeps_its_promises(module):
    assert [
        wrong for variant, capability in sample(module) for wrong in broken_promises([variant], capability)
    ] == []


def test_every_variant_has_limits():
    limits = read_limits()
    every = {variant.name for module in modules() for variant in variants(module)}
    assert every == set(limits), "run scripts/kernel_table.py --limits, and read what changed"
    assert all("90" in limits[name] for name in every)


@pytest.mark.parametrize(
    ("registers", "warps", "most"), [(78, 4, 80), (119, 8, 128), (133, 1, 136), (20, 4, 32), (190, 4, 255)]
)
def test_registers_for_the_same_occupancy(registers, warps, most):
    assert most_registers(registers, warps) == most
    assert occupancy(most, 0, warps, 90) == occupancy(registers, 0, warps, 90)
    assert most == 255 or occupancy(most + 1, 0, warps, 90) < occupancy(most, 0, warps, 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("module", modules())
def test_every_variant_keeps_its_promises(module, capability):
    assert broken_promises(variants(module), capability) == []


def test_names_of_variants_differ():
    names = [variant.name for module in modules() for variant in variants(module)]
    assert names
    assert len(names) == len(set(names))


def test_a_broken_promise_is_seen():
    """A stage with an enormous tile spills."""
    from dataclasses import replace

    from ssm_core.opkit import triton_aot

    variant = variants("ssm_core.ops.linear_scan.on_triton")[0]
    large = replace(variant, name="large", constants={**variant.constants, "BT": 16})
    about = triton_aot.compile(large, 90)
    assert about.stack > 0
    assert about.whole.local > 0


def test_a_table_is_made_of_what_was_compiled(monkeypatch):
    module = "ssm_core.ops.linear_scan.on_triton"
    first = variants(module)[0]
    monkeypatch.setattr(kernel_table, "variants", lambda name: [first])
    text = kernel_table.page([module], [90])
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| scan fp32 4x128 |")]
    assert len(rows) == 1
    assert float(rows[0][10]) == pytest.approx(12 / 4.3, abs=0.01)  # 12 bytes at 4.3 TB/s
    assert rows[0][11].strip() == "bytes"
    assert "predicted, not measured" in text


def about(whole: dict[str, int], work: dict[str, int]):
    from ssm_core.opkit.machine_code import Counts
    from ssm_core.opkit.triton_aot import Figures

    return Figures(32, 0, 0, Counts(whole), Counts(work))


KERNEL = {"LDG.E": 4, "FFMA": 30, "IADD3": 20, "STG.E": 4}


@pytest.mark.parametrize(
    ("work", "wrong"),
    [
        ({"LDG.E": 2, "FFMA": 10, "IADD3": 3}, "15 instructions"),
        ({"FFMA": 20, "IADD3": 20}, "neither loads nor stores"),
        ({"LDG.E": 1, "IADD3": 26}, "computes nothing in floating point"),
    ],
)
def test_no_row_of_what_cannot_be_the_work(work, wrong):
    with pytest.raises(ValueError, match=rf"scan for sm_90: .*{wrong}"):
        kernel_table.check("scan for sm_90", about(KERNEL, work))


def test_a_row_of_integers_alone_stands():
    kernel_table.check("search for sm_90", about({"LDG.E": 4, "IADD3": 20}, {"LDG.E": 1, "IADD3": 20}))


def test_tensor_cores_bound_a_time():
    """16 products of 64 x 32 x 8 by each of two warp groups, at 1024 in a clock: 512 clocks; 216 would issue."""
    from dataclasses import replace

    variant = replace(variants("ssm_core.ops.linear_scan.on_triton")[0], num_warps=8, elements=0)
    work = {"HGMMA.64x32x8.F32.TF32": 16, "LDG.E.128": 8, "IADD3": 84}
    seconds, kind = kernel_table.predicted(variant, about(work, work))
    assert kind == "tensor"
    assert seconds == pytest.approx(512 / (132 * 1.98e9))


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "warps_at_once"),
    [
        (32, 0, 4, 64),
        (128, 0, 4, 16),
        (129, 0, 4, 12),
        (255, 0, 1, 8),
        (32, 0, 1, 32),
        (32, 100 * 1024, 4, 8),
    ],
)
def test_occupancy(registers, shared, warps, warps_at_once):
    assert occupancy(registers, shared, warps, 90) == warps_at_once
