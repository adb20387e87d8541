"""Trees of operations, grown, valued and written out one depth at a time, thousands at once.

The nodes of a depth stand in the order of their parents, so that the children of the operators of one depth, in turn,
are the next depth. That order is all that links them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ssm_data.lra_listops.spec import ListOpsConfig
from ssm_data.lra_listops.vocabulary import CLOSE, DIGIT, END, OPERATOR, OPERATORS

LEAF = len(OPERATORS)
"""Stands for "a digit" among the numbers of operators."""


class Level(NamedTuple):
    """Nodes of one depth.

    Attributes:
        tree: Number of the tree of each node (n,).
        operator: Its number among the operators, or LEAF (n,).
        number: A leaf's digit, an operator's number of arguments (n,).
    """

    tree: NDArray[np.int32]
    operator: NDArray[np.uint8]
    number: NDArray[np.unsignedinteger]

    def of(self, trees: NDArray[np.bool_]) -> Level:
        """Return the nodes of some trees."""
        inside = trees[self.tree]
        return Level(self.tree[inside], self.operator[inside], self.number[inside])


class Lists(NamedTuple):
    """Trees written out.

    Attributes:
        values: Their ids, end to end.
        offsets: Where each begins (n + 1,).
        targets: What each comes to (n,).
    """

    values: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    targets: NDArray[np.uint8]


def draw(rng: Generator, n: int, config: ListOpsConfig) -> Lists:
    """Grow n trees whose root is an operator, and write out those within the bounds of length.

    The published generator draws the root like any other node; one that is a digit is never long enough.
    """
    levels, lengths = grow(rng, n, config)
    kept = (lengths > config.min_length) & (lengths < config.max_length)
    levels = [level.of(kept) for level in levels]
    values, sizes = fold(levels)
    return write(levels, values[0], sizes, config.append_eos)


def grow(rng: Generator, n: int, config: ListOpsConfig) -> tuple[list[Level], NDArray[np.int64]]:
    """Grow n trees; those that become too long are left as they are then.

    Returns:
        The levels, and the tokens of each tree (n,): two for an operator, one for a digit.
    """
    tree = np.arange(n, dtype=np.int32)
    levels = [_nodes(rng, tree, 1.0, config.max_args)]
    lengths = np.full(n, 2, np.int64)
    for depth in range(2, config.max_depth + 1):
        last = levels[-1]
        inner = last.operator != LEAF
        inner &= lengths[last.tree] < config.max_length
        tree = np.repeat(last.tree[inner], last.number[inner])
        if not len(tree):
            break
        share = config.operator_share if depth < config.max_depth else 0.0
        levels.append(_nodes(rng, tree, share, config.max_args))
        lengths += np.bincount(tree, minlength=n)
        lengths += np.bincount(tree[levels[-1].operator != LEAF], minlength=n)
    return levels, lengths


def _nodes(rng: Generator, tree: NDArray[np.int32], share: float, max_args: int) -> Level:
    n = len(tree)
    number = rng.integers(0, 10, n, np.uint8)
    operator = np.full(n, LEAF, np.uint8)
    inner = np.flatnonzero(rng.random(n, np.float32) < share)
    operator[inner] = rng.integers(0, len(OPERATORS), len(inner), np.uint8)
    number[inner] = rng.integers(2, max_args + 1, len(inner), np.uint8)
    return Level(tree, operator, number)


def fold(levels: Sequence[Level]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int32]]]:
    """Return what every node comes to, and its number of tokens, depth by depth."""
    values: list[NDArray[np.uint8]] = []
    sizes: list[NDArray[np.int32]] = []
    for level in reversed(levels):
        value, size = level.number.astype(np.uint8), np.ones(len(level.tree), np.int32)
        inner = np.flatnonzero(level.operator != LEAF)
        if len(inner):
            counts = level.number[inner].astype(np.int64)
            starts = counts.cumsum() - counts
            value[inner] = _apply(level.operator[inner], counts, starts, values[-1])
            size[inner] = 2 + np.add.reduceat(sizes[-1], starts)
        values.append(value)
        sizes.append(size)
    return values[::-1], sizes[::-1]


def _apply(
    operator: NDArray[np.uint8], counts: NDArray[np.int64], starts: NDArray[np.int64], x: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Apply each operator to its arguments, which stand in ``x`` one operator after the other."""
    least, most = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    total = np.add.reduceat(x.astype(np.int32), starts) % 10
    middle = np.zeros_like(least)
    wanted = operator == OPERATORS.index("[MED")
    if wanted.any():
        n = counts[wanted]
        begin = n.cumsum() - n
        # One sort of all: the operator's number above the digit keeps each one's arguments together.
        keys = np.repeat(np.arange(len(n), dtype=np.int32) * 16, n) + x[np.repeat(wanted, counts)]
        keys.sort()
        low, high = keys[begin + (n - 1) // 2] % 16, keys[begin + n // 2] % 16
        middle[wanted] = (low + high) // 2
    return np.choose(operator, [least, most, middle, total.astype(np.uint8)])


def write(
    levels: Sequence[Level], targets: NDArray[np.uint8], sizes: Sequence[NDArray[np.int32]], end: bool
) -> Lists:
    """Write trees out as ids.

    Args:
        levels: The nodes.
        targets: What the trees come to (n,).
        sizes: Tokens of every node, depth by depth.
        end: Close each with an id of its own.
    """
    offsets = np.concatenate([[0], (sizes[0].astype(np.int64) + end).cumsum()])
    out = np.full(offsets[-1], END, np.uint8)
    position = offsets[:-1]
    for depth, level in enumerate(levels):
        inner = level.operator != LEAF
        out[position] = np.where(inner, OPERATOR + level.operator, DIGIT + level.number)
        if not inner.any():
            break
        begin, counts = position[inner], level.number[inner].astype(np.int64)
        out[begin + sizes[depth][inner] - 1] = CLOSE
        after = sizes[depth + 1].cumsum(dtype=np.int64) - sizes[depth + 1]
        starts = counts.cumsum() - counts
        position = after + np.repeat(begin + 1 - after[starts], counts)
    return Lists(out, offsets, targets)
