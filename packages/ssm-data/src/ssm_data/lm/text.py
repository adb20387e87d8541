"""Lines to learn pieces from: a sample of bounded size, taken from all over a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from ssm_core.protocols import Progress

STEP = 1 << 18
"""Characters of the sample between two reports."""


def sampled_lines(
    blocks: Callable[[], Iterable[bytes]], megabytes: float, total: int | None = None
) -> Iterator[str]:
    """Yield lines of whole blocks at even distances, about so many bytes in all.

    Args:
        blocks: Returns the text as a stream, from its beginning.
        megabytes: Millions of bytes that are wanted.
        total: Bytes of the text; None counts them first.
    """
    total = sum(map(len, blocks())) if total is None else total
    share = min(1.0, megabytes * 1e6 / max(1, total))
    for index, text in enumerate(blocks()):
        if math.ceil((index + 1) * share) > math.ceil(index * share):
            yield from filter(None, text.decode("utf-8", "ignore").split("\n"))


def learning(
    train: Callable[[Iterator[str]], bytes],
    lines: Iterator[str],
    task: str,
    total: int,
    progress: Progress | None,
) -> bytes:
    """Train a tokeniser and tell how far it is: of the sample by bytes, of the work on it only that it goes on.

    Args:
        train: Trains on lines.
        lines: The sample.
        task: Name of the task.
        total: Bytes of the sample, about.
        progress: Told of it.
    """
    if progress is None:
        return train(lines)
    reading, pieces = f"{task} data: reading a sample", f"{task} data: learning pieces from it"

    def counted() -> Iterator[str]:
        done, said = 0, 0
        for line in lines:
            done += len(line) + 1
            if done - said >= STEP:  # a line is too little to redraw for
                said = done
                progress(reading, done, max(done + 1, total))
            yield line
        progress(reading, done, done)
        progress(pieces, 0, 1)

    model = train(counted())
    progress(pieces, 1, 1)
    return model
