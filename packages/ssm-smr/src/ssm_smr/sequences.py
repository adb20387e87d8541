"""What a mask and resets leave of a batch: sequences, moved together, cut where a new one begins, and turned round."""

from __future__ import annotations

from torch import Tensor

from ssm_core.ragged import flip_valid, gaps_after, last_inputs
from ssm_core.rows import Front, Padded, only_pads


class Sequences:
    """The valid elements of each row at its front, and the sequence that each belongs to. Shapes depend on no value.

    Args:
        mask_bl: True where an element counts (B, L), L >= 1; None if all do.
        reset_bl: True where a new sequence begins (B, L); None if each row is one.
    """

    def __init__(self, mask_bl: Tensor | None, reset_bl: Tensor | None) -> None:
        self._front = None if mask_bl is None else Padded(mask_bl) if only_pads(mask_bl) else Front(mask_bl)
        self.lengths_b = None if self._front is None else self._front.lengths
        ids = None if reset_bl is None else reset_bl.long().cumsum(1)
        # The newest sequence may have no valid element yet.
        self._newest = None if ids is None else ids[:, -1:]
        self.segment_bl = None if ids is None else self.pack(ids)

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, ...) with each row's valid elements first and zeros behind them."""
        return x if self._front is None else self._front.pack(x)

    def unpack(self, y: Tensor) -> Tensor:
        """(B, L, ...) with each element in its own place again, and anything finite where masked."""
        return self._front.unpack(y) if isinstance(self._front, Front) else y

    def flip(self, x: Tensor) -> Tensor:
        """Packed (B, L, ...) in reverse, what counts still first; its own inverse."""
        return flip_valid(x, self.lengths_b)

    def gaps_after(self, gaps_bl: Tensor) -> Tensor:
        """The gap after each element from those before, packed (B, L): the next one's, 1 where a sequence ends."""
        return gaps_after(gaps_bl, self.lengths_b, self.segment_bl)

    def last(self, before: Tensor, packed: Tensor) -> Tensor:
        """The last W elements of each row's newest sequence (B, W, ...), zeros where it has fewer.

        Args:
            before: The W elements before the first, of sequence 0 (B, W, D).
            packed: Packed elements (B, L, D).
        """
        kept = last_inputs(before, packed, self.lengths_b)
        if self.segment_bl is None or self._newest is None:
            return kept
        of_before = self.segment_bl.new_zeros(len(before), before.shape[1], 1)
        owner = last_inputs(of_before, self.segment_bl[..., None], self.lengths_b)
        return kept.masked_fill(owner != self._newest[..., None], 0)
