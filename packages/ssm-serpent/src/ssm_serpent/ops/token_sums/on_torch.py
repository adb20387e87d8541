"""Sums per token in plain torch calls, on any device: for each slot, runs of windows that start at the same token."""

from torch import Tensor

from ssm_serpent.ops._segments import segment_sums
from ssm_serpent.ops.encode.windows import run_edges


def forward(values: Tensor, start: Tensor, inside: Tensor, length: int) -> Tensor:
    """(B, L). Clean inputs assumed."""
    window = inside.shape[2]
    runs_btw = segment_sums(values.masked_fill(~inside, 0), run_edges(start, inside, length))
    total_bl = values.new_zeros(len(values), length)
    for j in range(window):
        total_bl += runs_btw[:, window - 1 - j :, j][:, :length]
    return total_bl
