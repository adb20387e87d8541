"""From a seed to the splits of ListOps, in blocks that do not depend on which process makes them."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data.cache import Arrays
from ssm_data.lra_listops.spec import ListOpsConfig
from ssm_data.lra_listops.trees import Lists, draw

GENERATOR = 1
"""Raised when the lists for the same knobs change; old caches are then left alone and new ones made."""

ORDER = ("test", "validation", "train")
"""Splits as they are dealt out. No list is in two of them, or twice in one; so the later ones depend on the earlier."""

TREES = 2048
"""Trees of a block, of which those within the bounds are kept."""

PATIENCE = 200
"""Blocks in a row that may bring nothing new."""


def generate(
    config: ListOpsConfig, wanted: Collection[str], progress: Progress | None = None
) -> Iterator[tuple[str, Arrays]]:
    """Make the wanted splits, and those before them in the order of dealing.

    Args:
        config: Limits, sizes, seed, workers.
        wanted: Names of splits.
        progress: Told of every block.

    Yields:
        Name of a split and its arrays: ``values`` uint8 ids end to end, ``offsets`` int64 (n + 1,), ``targets``
        uint8 (n,).

    Raises:
        UserError: If there are not that many different lists within the limits.
    """
    seen: set[bytes] = set()
    last = max(ORDER.index(name) for name in wanted)
    for stream, name in enumerate(ORDER[: last + 1]):
        arrays = _split(config, stream, name, seen, progress)
        if name in wanted:
            yield name, arrays


def block(config: ListOpsConfig, stream: int, index: int) -> Lists:
    """Make one block of a split's stream."""
    return draw(np.random.default_rng((config.seed, stream, index)), TREES, config)


def _split(
    config: ListOpsConfig, stream: int, name: str, seen: set[bytes], progress: Progress | None
) -> Arrays:
    n, have, idle = config.size(name), 0, 0
    kept: list[Lists] = []
    with _Blocks(config, stream) as blocks:
        for lists in blocks:
            kept.append(_select(lists, _new(lists, seen, n - have)))
            found = len(kept[-1].targets)
            have, idle = have + found, 0 if found else idle + 1
            if progress:
                progress(f"lra-listops data: {name}", have, n)
            if have == n:
                break
            if idle == PATIENCE:
                raise UserError(
                    f"lra-listops found {have} different lists for '{name}' within its limits, not {n}",
                    "ask for fewer (n_train, n_validation, n_test), or widen max_length, max_depth or max_args",
                )
    lengths = np.concatenate([np.diff(lists.offsets) for lists in kept])
    return {
        "values": np.concatenate([lists.values for lists in kept]),
        "offsets": np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
        "targets": np.concatenate([lists.targets for lists in kept]),
    }


def _new(lists: Lists, seen: set[bytes], most: int) -> NDArray[np.bool_]:
    """Return which lists were not seen before, no more than ``most``; these are seen from now on."""
    data, offsets = lists.values.tobytes(), lists.offsets.tolist()
    new = np.zeros(len(lists.targets), bool)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if most == 0:
            break
        key = hashlib.blake2b(data[start:stop], digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            new[i] = True
            most -= 1
    return new


def _select(lists: Lists, kept: NDArray[np.bool_]) -> Lists:
    if kept.all():
        return lists
    lengths = np.diff(lists.offsets)
    offsets = np.concatenate([[0], lengths[kept].cumsum()])
    return Lists(lists.values[np.repeat(kept, lengths)], offsets, lists.targets[kept])


class _Blocks:
    """The blocks of a stream in their order, made by as many processes as the config says."""

    def __init__(self, config: ListOpsConfig, stream: int) -> None:
        self.config = config
        self.stream = stream
        several = config.workers > 1
        # Spawned, not forked: a fork of a process whose libraries run threads may hang.
        self.pool = ProcessPoolExecutor(config.workers, get_context("spawn")) if several else None

    def __enter__(self) -> _Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Lists]:
        if self.pool is None:
            for index in itertools.count():
                yield block(self.config, self.stream, index)
            return
        ahead: deque[Future[Lists]] = deque()
        for index in itertools.count():
            ahead.append(self.pool.submit(block, self.config, self.stream, index))
            if len(ahead) > 2 * self.config.workers:
                yield ahead.popleft().result()
