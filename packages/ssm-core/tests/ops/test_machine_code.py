"""The stretch of machine code that does a kernel's work, in texts as cuobjdump prints them."""

from __future__ import annotations

import pytest

from ssm_core.opkit.machine_code import Counts, read_sass


def listing(*lines: str) -> str:
    """Number instructions from 0x0 in steps of 0x10, as they are printed."""
    return "\n".join(f"        /*{16 * i:04x}*/  {line} ;  /* 0x0 */" for i, line in enumerate(lines))


def test_names_are_read():
    whole, loop = read_sass(
        """
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
    )
    assert (whole.total, whole.local) == (12, 1)
    assert (loop.total, loop.loads, loop.wide_loads, loop.special, loop.arithmetic) == (6, 1, 1, 1, 2)
    assert (loop.bytes, loop.local) == (24, 0)


SLOW_SINE = listing(
    "MOV R1, c[0x0][0x28]",
    "LDG.E R4, [R2.64]",  # 0x10, the head of the loop over time
    "FSETP.GE.AND P0, PT, |R4|, 105615, PT",
    "FMUL R5, R4, R4",
    "@!P0 BRA 0xa0",
    "MOV R6, RZ",
    "LDG.E.CONSTANT R7, [R8.64]",  # 0x60, the head of the loop over digits of 2/pi
    "IMAD.WIDE.U32 R6, R7, R4, R6",
    "@P1 BRA 0x60",
    "DMUL R10, R6, R12",
    "FFMA R5, R5, R4, R5",  # 0xa0, where both ways meet
    "MUFU.EX2 R9, R5",
    "STG.E [R2.64], R9",
    "@P2 BRA 0x10",
    "EXIT",
    "BRA 0xf0",
    "NOP",
)
"""A loop over time; within it the slow way of a sine, whose own loop has loads and no arithmetic."""


def test_slow_way_is_not_the_work():
    whole, work = read_sass(SLOW_SINE)
    assert whole.total == 16
    assert work.by_name == {
        "LDG.E": 1,
        "FSETP.GE.AND": 1,
        "FMUL": 1,
        "BRA": 2,
        "FFMA": 1,
        "MUFU.EX2": 1,
        "STG.E": 1,
    }
    assert (work.loads, work.stores, work.arithmetic, work.arithmetic_64) == (1, 1, 2, 0)


def test_largest_of_the_innermost_loops_is_the_work():
    _, work = read_sass(
        listing(
            "LDG.E R0, [R2.64]",  # 0x0, a loop of two instructions and its branch
            "FADD R1, R0, R1",
            "@P0 BRA 0x0",
            "MOV R3, RZ",  # 0x30, a loop round the next one
            "LDG.E.128 R4, [R2.64]",  # 0x40, the largest that holds no other
            "FMUL R4, R4, R5",
            "FFMA R6, R4, R4, R6",
            "@P1 BRA 0x40",
            "STG.E [R2.64], R6",
            "@P2 BRA 0x30",
            "EXIT",
        )
    )
    assert (work.total, work.wide_loads, work.stores) == (4, 1, 0)


def test_wait_out_of_line_is_no_loop():
    """Waits moved behind the end jump back to where they are needed; what they jump over is no loop of its own."""
    _, work = read_sass(
        listing(
            "FMUL R1, R1, R1",
            "FMUL R1, R1, R1",
            "FMUL R1, R1, R1",
            "FMUL R1, R1, R1",
            "@!P0 BRA 0xb0",
            "LDG.E R4, [R2.64]",  # 0x50, the head of the only loop, and where the first wait comes back to
            "UTCHMMA tmem[UR4], gdesc[UR6], tmem[UR8], tmem[UR10], idesc[UR11], UP0",
            "@!P0 BRA 0xe0",
            "@P1 BRA 0x50",  # 0x80, where the second wait comes back to
            "STG.E [R2.64], R5",
            "EXIT",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R1",  # 0xb0
            "@!P0 BRA 0xb0",
            "BRA 0x50",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R1",  # 0xe0
            "@!P0 BRA 0xe0",
            "BRA 0x80",
        )
    )
    assert (work.total, work.loads, work.tensor, work.arithmetic) == (7, 1, 1, 0)


def test_call_out_of_a_loop_is_a_branch():
    """Some inner loops are left by a call that never comes back; they lie within the outer one all the same."""
    _, work = read_sass(
        listing(
            "LDG.E R4, [R2.64]",  # 0x0, the outer loop
            "FADD R4, R4, R4",
            "FADD R4, R4, R4",
            "LDG.E R5, [R2.64]",  # 0x30, the inner loop
            "FFMA R6, R5, R4, R6",
            "@!P5 CALL.REL.NOINC 0x70",
            "BRA 0x30",
            "FADD R6, R6, R6",  # 0x70
            "FADD R6, R6, R6",
            "FADD R6, R6, R6",
            "STG.E [R2.64], R6",
            "@P2 BRA 0x0",
            "EXIT",
        )
    )
    assert (work.total, work.loads, work.stores, work.arithmetic) == (4, 1, 0, 1)


def test_kernel_that_only_waits_in_loops_works_from_end_to_end():
    whole, work = read_sass(
        listing(
            "LDG.E R4, [R2.64]",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R1",  # 0x10
            "@!P0 BRA 0x10",
            "FADD R5, R4, R4",
            "STG.E [R2.64], R5",
            "EXIT",
        )
    )
    assert work == whole
    assert work.total == 6


def test_integers_are_the_work_where_there_is_nothing_else():
    """A search: its loop has no arithmetic but of integers; the kernel divides integers by a reciprocal."""
    _, work = read_sass(
        listing(
            "MUFU.RCP R1, R1",
            "LDG.E.64 R4, [R2.64]",  # 0x10
            "ISETP.LT.AND P1, PT, R4, R6, PT",
            "SEL R7, R8, R7, P1",
            "@P0 BRA 0x10",
            "LDG.E.64 R4, [R2.64]",  # 0x50
            "STG.E.64 [R2.64], R4",
            "@P0 BRA 0x50",
            "EXIT",
        )
    )
    assert (work.total, work.loads, work.stores) == (4, 1, 0)


@pytest.mark.parametrize(
    ("name", "kind", "products"),
    [
        ("HMMA.16816.F32.BF16", "half", 16 * 8 * 16),
        ("HMMA.1688.F32.TF32", "tf32", 16 * 8 * 8),
        ("HGMMA.64x32x8.F32.TF32", "tf32", 16 * 32 * 8),
        ("HGMMA.64x128x16.F32", "half", 16 * 128 * 16),
        ("DMMA.8x8x4", "fp64", 8 * 8 * 4),
        ("DMMA.884", "fp64", 8 * 8 * 4),
        ("IMMA.16832.S8.S8", "byte", 16 * 8 * 32),
    ],
)
def test_tensor_instructions_say_what_they_multiply(name, kind, products):
    counts = Counts({name: 3, "FFMA": 7})
    assert counts.tensor == 3
    assert counts.arithmetic == 7
    assert counts.products == {kind: 3 * products}


def test_sizes_that_a_name_does_not_hold_are_not_guessed():
    counts = Counts({"UTCHMMA": 2})
    assert counts.tensor == 2
    with pytest.raises(ValueError, match="UTCHMMA does not say"):
        _ = counts.products
