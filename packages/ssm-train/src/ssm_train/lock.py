"""One process a run folder: whoever trains there holds its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_train.device import is_main


@contextmanager
def training_alone(run: RunFolder) -> Iterator[None]:
    """Hold the lock of a run folder while the block runs; of several processes of one run, the first one does.

    The system frees the lock when its process ends, however it ends: the file ``lock`` that stays behind says nothing.

    Raises:
        UserError: If another process trains there, or the folder cannot be written.
    """
    if not is_main():
        yield
        return
    lock = FileLock(run.path / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{run.path} is being trained by another process",
            "wait for its end, or stop that process; then --resume goes on from what it has saved",
        ) from None
    except OSError as error:
        raise UserError(f"cannot lock {run.path}: {error.strerror}", "make it writable") from None
    try:
        yield
    finally:
        lock.release()
