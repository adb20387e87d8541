"""The Triton kernels compile for three architectures, spill nothing and load wide, as their variants promise. No GPU.

An architecture takes every n-th variant of a module, each of the three starting at another; all of them take minutes,
and are marked slow.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

import kernel_table
from kernel_table import CAPABILITIES, modules, occupancy, variants

SHARED_MEMORY = 100 * 1024  # bytes of a program that leave room for two on every architecture
AT_ONCE = 6  # variants of a module and architecture

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1200),
]


def broken_promises(chosen: list, capability: int) -> list[str]:
    from ssm_core.ops import _triton_aot

    broken = []
    for variant in chosen:
        about = _triton_aot.compile(variant, capability)
        if about.stack > variant.stack or (about.whole.local and not variant.stack):
            broken.append(f"{variant.name} spills {about.stack} bytes")
        if about.registers > variant.registers:
            broken.append(f"{variant.name} takes {about.registers} registers, not {variant.registers}")
        if about.shared > SHARED_MEMORY:
            broken.append(f"{variant.name} takes {about.shared} bytes of shared memory")
        if variant.wide and not about.whole.wide_loads:
            broken.append(f"{variant.name} loads nothing in 128 bits")
    return broken


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("module", modules())
def test_some_variants_keep_their_promises(module, capability):
    every = variants(module)
    stride = max(1, -(-len(every) // AT_ONCE))
    assert broken_promises(every[CAPABILITIES.index(capability) % stride :: stride], capability) == []


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("module", modules())
def test_every_variant_keeps_its_promises(module, capability):
    assert broken_promises(variants(module), capability) == []


def test_names_of_variants_differ():
    names = [variant.name for module in modules() for variant in variants(module)]
    assert names
    assert len(names) == len(set(names))


CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;        /* 0x00000a00ff017b82 */
        /*0010*/                   MOV R2, RZ ;
        /*0020*/              @!P0 LDG.E.128 R4, [R2.64] ;
        /*0030*/                   FFMA R4, R5, R6, R7 ;
        /*0040*/                   FMUL R8, R4, R4 ;
        /*0050*/                   MUFU.EX2 R9, R8 ;
        /*0060*/                   STG.E.64 desc[UR4][R2.64], R8 ;
        /*0070*/               @P1 BRA 0x20 ;
        /*0080*/                   LDL R3, [R1] ;
        /*0090*/               @P2 BRA 0x10 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   BRA 0xb0 ;
"""


def test_machine_code_is_read():
    from ssm_core.ops._triton_aot import read_sass

    whole, loop = read_sass(CODE)
    assert (whole.total, whole.local) == (12, 1)
    assert (loop.total, loop.loads, loop.wide_loads, loop.special, loop.arithmetic) == (6, 1, 1, 1, 2)
    assert (loop.bytes, loop.local) == (24, 0)


def test_a_broken_promise_is_seen():
    """A stage with an enormous tile spills."""
    from dataclasses import replace

    from ssm_core.ops import _triton_aot

    variant = variants("ssm_core.ops.linear_scan.on_triton")[0]
    large = replace(variant, name="large", constants={**variant.constants, "BT": 16})
    about = _triton_aot.compile(large, 90)
    assert about.stack > 0
    assert about.whole.local > 0


def test_a_table_is_made_of_what_was_compiled(monkeypatch):
    module = "ssm_core.ops.linear_scan.on_triton"
    first = variants(module)[0]
    monkeypatch.setattr(kernel_table, "variants", lambda name: [first])
    text = kernel_table.page([module], [90])
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| scan fp32 4x128 |")]
    assert len(rows) == 1
    assert float(rows[0][8]) == pytest.approx(12 / 4.3, abs=0.01)  # 12 bytes at 4.3 TB/s
    assert rows[0][9].strip() == "bytes"
    assert "predicted, not measured" in text


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
