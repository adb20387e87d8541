"""How many bytes and words a predicted token is worth, so that tokenisers compare."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ssm_data.lm.tokenizer import Tokenizer

BLANKS = b" \t\n\r\x0b\x0c"


class Measure:
    """Bytes and words of tokens, by table.

    A word is a run of bytes without blanks; the token in which it begins counts it. That a token goes on with a word is
    seen from the token before it, so nothing but the row itself has to be known.

    Args:
        tokenizer: Spells the ids.
        count_newlines: Each newline counts as a word too, as the end of a line does at word level.
    """

    def __init__(self, tokenizer: Tokenizer, count_newlines: bool = False) -> None:
        rows = [_row(spelled, count_newlines) for spelled in tokenizer.spelled]
        self.tables = torch.tensor(rows, dtype=torch.int32).T.contiguous()

    def bytes(self, targets: Tensor) -> Tensor:
        """Return the number of bytes of each token, int32 of the same shape."""
        return self._table(0, targets)[targets]

    def words(self, before: Tensor, targets: Tensor) -> Tensor:
        """Return the number of words that begin in each token, int32.

        Args:
            before: The token before each, of the same shape.
            targets: The tokens.
        """
        begins = self._table(2, targets)[targets] * self._table(3, targets)[before.long()]
        return self._table(1, targets)[targets] + begins

    def _table(self, row: int, like: Tensor) -> Tensor:
        self.tables = self.tables.to(like.device)
        return self.tables[row]


def _row(spelled: bytes, count_newlines: bool) -> tuple[int, int, int, int]:
    """Return bytes, words begun within, whether a word may begin at the first byte, whether it ends in a blank."""
    blank = [byte in BLANKS for byte in spelled]
    inside = sum(was and not now for was, now in pairwise(blank))
    if count_newlines:
        inside += spelled.count(b"\n")
    # A token of no bytes ends a document, which ends a word.
    return len(spelled), inside, int(bool(blank) and not blank[0]), int(not blank or blank[-1])
