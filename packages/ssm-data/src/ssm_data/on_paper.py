"""Models that are counted and not run: their vocabulary has the published size, and no data is read for it."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def on_paper(task: str, published: int) -> int | None:
    """Return the published size of a vocabulary where a model is being built on the meta device, None elsewhere.

    Such a model has shapes and no weights: it can be described and its parameters counted, before its data is there.

    Args:
        task: The task, for the log.
        published: Number of ids that the task's source gives; 0 if it gives none.
    """
    if torch.get_default_device().type != "meta" or not published:
        return None
    log.info(
        "%s: counted with the published vocabulary of %d ids; the data says how many there are",
        task,
        published,
    )
    return published
