"""What written lists come to: many at once, depth by depth, with the arithmetic that the generator has."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from ssm_data.lra_listops.trees import LEAF, Level, fold
from ssm_data.lra_listops.vocabulary import CLOSE, DIGIT, OPERATOR

BRACKETS = "its brackets do not match: the list is cut short or garbled"
EMPTY = "an operator has no arguments"


class Malformed(Exception):
    """A list is none.

    Args:
        place: Number of the list.
        what: What is wrong with it.
    """

    def __init__(self, place: int, what: str) -> None:
        super().__init__(place, what)
        self.place, self.what = place, what


def values(ids: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return what lists come to (n,).

    Args:
        ids: Digits, operators and closing brackets of all lists, end to end.
        offsets: Where each list begins (n + 1,); none is empty, or of more than 65,535 tokens.

    Raises:
        Malformed: If a list is no single tree, or has an operator without arguments.
    """
    is_operator, is_close = ids >= OPERATOR, ids == CLOSE
    _one_tree_each(is_operator, is_close, offsets)
    after = is_operator & np.append(is_close[1:], False)
    if after.any():
        raise Malformed(_list_of(int(after.argmax()), offsets), EMPTY)
    nodes = np.flatnonzero(~is_close)
    # Depth of a node, its list being at 1; all lists end at 0, so that one count serves them all.
    depth = (np.cumsum(is_operator, dtype=np.int32) - np.cumsum(is_close, dtype=np.int32))[nodes]
    depth += ~is_operator[nodes]
    order = np.argsort(depth.astype(np.uint16), kind="stable")  # in time that grows with their number alone
    bounds = np.bincount(depth).cumsum()
    places = [nodes[order[start:stop]] for start, stop in itertools.pairwise(bounds)]
    return fold([_level(ids, *two) for two in itertools.pairwise([*places, nodes[:0]])])[0][0]


def _one_tree_each(
    is_operator: NDArray[np.bool_], is_close: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> None:
    """Check that each list is closed at its end, and not before it."""
    opened = np.cumsum(is_operator, dtype=np.int32) - np.cumsum(is_close, dtype=np.int32)
    ends = offsets[1:] - 1
    begins_at = np.append(0, opened[ends[:-1]])
    unbalanced = opened[ends] != begins_at
    last = np.zeros(len(opened), bool)
    last[ends] = True
    early = (opened <= 0) & ~last
    wrong = [int(unbalanced.argmax())] if unbalanced.any() else []
    # What follows a list that is not balanced is counted from a wrong depth: the first of all is what is told.
    wrong += [_list_of(int(early.argmax()), offsets)] if early.any() else []
    if wrong:
        raise Malformed(min(wrong), BRACKETS)


def _level(ids: NDArray[np.uint8], here: NDArray[np.int64], below: NDArray[np.int64]) -> Level:
    """Return the nodes of a depth by their places and those of the nodes one deeper, which are their arguments."""
    inner = ids[here] >= OPERATOR
    operator = np.where(inner, ids[here] - OPERATOR, LEAF).astype(np.uint8)
    number = (ids[here] - DIGIT).astype(np.uint16)
    # Those of an operator stand between it and the next one of its depth.
    first = np.searchsorted(below, here[inner])
    number[inner] = np.diff(first, append=len(below))
    return Level(np.zeros(len(here), np.int32), operator, number)


def _list_of(place: int, offsets: NDArray[np.int64]) -> int:
    return int(np.searchsorted(offsets, place, side="right")) - 1
