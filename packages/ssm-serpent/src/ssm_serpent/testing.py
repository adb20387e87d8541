"""What tests of resampling need: batches given in whole ticks, windows as lists, equality of all maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssm_serpent.index import Index
from ssm_serpent.intervals import TICKS, Intervals, fixed_point


def from_ticks(batch: Sequence[Sequence[int]], device: str = "cpu", *, padding: int = 0) -> Intervals:
    """Make intervals of rows of ticks, exactly.

    Args:
        batch: rows of ticks, each tick in [1, 2^20]; rows may differ in length.
        device: where the result lives.
        padding: tokens of padding after the longest row. All padding is NaN on the way in, so that a leak shows.

    Returns:
        Intervals of shape (B, L), `u_bl` in float64.
    """
    length = max(map(len, batch)) + padding
    u_bl = torch.full((len(batch), length), float("nan"), dtype=torch.float64)
    for row, ticks in zip(u_bl, batch, strict=True):
        row[: len(ticks)] = torch.tensor(ticks, dtype=torch.float64) / TICKS
    mask_bl = ~u_bl.isnan()
    return fixed_point(u_bl.to(device), 0.0, 1.0, mask_bl.to(device))


def windows_of(index: Index, row: int = 0) -> list[list[int]]:
    """List the tokens in each window of one row, the points in use only; `index` is on the CPU."""
    slot_w = torch.arange(index.inside_bkw.shape[2])
    token_kw = index.start_bk[row, :, None] + slot_w
    count = int(index.count_b[row])
    rows = zip(token_kw[:count], index.inside_bkw[row, :count], strict=True)
    return [tokens[inside].tolist() for tokens, inside in rows]


def assert_same(a: Index, b: Index) -> None:
    """Assert that all maps are equal, bit for bit, naming the first that is not."""
    for name, x, y in zip(Index._fields, a, b, strict=True):
        assert torch.equal(x, y), f"{name} differs"
