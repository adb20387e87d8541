"""The 18 ids of ListOps: those of the S4 pipeline, in an order that does not depend on a sample's frequencies."""

from __future__ import annotations

PAD, UNKNOWN, END, CLOSE = 0, 1, 2, 3
DIGIT = 4
"""Id of the digit 0; the others follow."""
OPERATOR = 14
"""Id of the first operator; the others follow."""

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
"""Smallest, largest, median (of an even number, the two in the middle averaged and rounded down), sum modulo 10."""

VOCABULARY = ["<pad>", "<unk>", "<eos>", "]", *map(str, range(10)), *OPERATORS]

IDS = {**{token: i for i, token in enumerate(VOCABULARY) if i >= CLOSE}, "X": CLOSE}
"""Token of a file -> id; some pipelines write ``X`` for the closing bracket."""
