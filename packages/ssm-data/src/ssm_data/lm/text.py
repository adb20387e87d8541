"""Lines to learn pieces from: a sample of bounded size, taken from all over a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator


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
