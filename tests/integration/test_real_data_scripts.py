"""The scripts behind the page of real data: counts of bytes against counting by hand, and a row of reading speeds."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

import reader_speed
import real_data_baselines


def by_hand(train: bytes, test: bytes, n: int) -> float:
    whole = Counter(train[i : i + n] for i in range(len(train) - n + 1))
    before = Counter(train[i : i + n - 1] for i in range(len(train) - n + 1))
    kinds, bits = len(set(train + test)), 0.0
    for i in range(n - 1, len(test)):
        context = test[i - n + 1 : i]
        p = (whole[context + test[i : i + 1]] + 0.1) / (before[context] + 0.1 * kinds)
        bits -= math.log2(p)
    return bits / (len(test) - n + 1)


@pytest.mark.parametrize("n", [3, 4])
def test_bits_per_byte_are_those_of_counting(n):
    train, test = b"the cat sat on the mat, the cat ran at the rat", b"the rat sat on the cat!"
    arrays = (np.frombuffer(text, np.uint8) for text in (train, test))
    assert real_data_baselines.bits_per_byte(*arrays, n) == pytest.approx(by_hand(train, test, n), rel=1e-12)


def test_a_row_of_reading_speeds(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_speed, "SERIES", 20)
    monkeypatch.setattr(reader_speed, "ELEMENTS", 10)
    subject = reader_speed.table(tmp_path)
    assert len(subject.files.read_text().splitlines()) == 201
    cells = reader_speed.row(subject, tmp_path).split("|")[1:-1]
    assert cells[0].strip() == "`irregular-csv`: 200 rows of 5 columns; 32 series of 10, with gaps"
    assert [cell.split()[1] for cell in cells[1:]] == ["MB", "s", "MB/s", "ms", "ms"]
