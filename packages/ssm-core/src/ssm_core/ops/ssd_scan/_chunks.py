"""How time is cut into chunks: each belongs to one sequence, the last one of a sequence may be ragged.

The number of chunks depends on shapes only, so no offset is read back to the host; chunks that are not needed come
last and are empty.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Chunks(NamedTuple):
    """K chunks of at most Q steps over S sequences.

    Attributes:
        start: First step of each chunk (K,), counted in the pack.
        stop: The step behind its last one (K,); equal to `start` in a chunk that is not needed.
        sequence: The sequence that it belongs to (K,); S - 1 in a chunk that is not needed.
        offsets: First chunk of each sequence, and behind the last (S+1,); equal neighbours where one is empty.
    """

    start: Tensor
    stop: Tensor
    sequence: Tensor
    offsets: Tensor


def chunk_length(chunk_size: int, length: int, sequences: int) -> int:
    """Steps of a chunk: as asked for, but not many more than a sequence of average length has."""
    average = -(-length // max(sequences, 1))
    return max(1, min(chunk_size, average if sequences == 1 else max(16, 2 * average)))


def chunks(cu_seqlens: Tensor, length: int, size: int) -> Chunks:
    """Cut a pack of `length` steps, at least one, into chunks of `size` steps."""
    cu_seqlens = cu_seqlens.long()
    sequences = cu_seqlens.shape[0] - 1
    count = (length + min(sequences, length) * (size - 1)) // size  # at least sum of ceil(length of s / size)
    per_sequence = (cu_seqlens.diff() + size - 1) // size
    offsets = torch.cat([per_sequence.new_zeros(1), per_sequence.cumsum(0)])
    chunk = torch.arange(count, device=cu_seqlens.device)
    sequence = (torch.searchsorted(offsets, chunk, right=True) - 1).clamp(max=sequences - 1)
    stop = cu_seqlens[sequence + 1]
    start = torch.minimum(cu_seqlens[sequence] + (chunk - offsets[sequence]) * size, stop)
    return Chunks(start, torch.minimum(start + size, stop), sequence, offsets)
