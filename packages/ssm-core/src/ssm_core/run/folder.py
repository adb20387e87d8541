"""The run folder: where everything of a run lies, and writes that survive a kill at any moment.

Every file is written under a temporary name in its final folder, flushed to disk, and renamed; a reader sees the old
or the new one, never half of one. ``metrics.jsonl`` is the exception: rows are appended, and readers skip a torn one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssm_core.json_text import json_text
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig

RESUMED = ("run", "resumed")
"""Split and name of the row of ``metrics.jsonl`` that a resume writes: rows of later steps, above it, are void."""


class RunFolder:
    """A run's folder.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    @classmethod
    def create(cls, root: Path | str, config: RunConfig) -> RunFolder:
        """Make a new folder ``<root>/<task>/<time>-<backbone+addons>-<hash>/`` and write its configuration."""
        task = config.task.short if config.task else "own-task"
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        base = Path(root) / task / f"{stamp}-{config.label()}-{config.fingerprint()}"
        for attempt in range(1000):
            path = base if not attempt else base.with_name(f"{base.name}.{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(
                    f"cannot make the run folder {path}: {error.strerror}", "choose another --out"
                ) from None
            run = cls(path)
            run.checkpoints.mkdir()
            write_json(run.path / "config.json", config.to_tree())
            return run
        raise UserError(f"{base} and a thousand variants of it exist already", "choose another --out")

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Return an existing run folder.

        Raises:
            UserError: If the path is no run folder.
        """
        run = cls(path)
        if not (run.path / "config.json").is_file():
            hint = "give the path that `ssm train` printed last"
            raise UserError(f"{run.path} is not a run folder: it has no config.json", hint)
        return run

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """The append-only metrics."""
        return self.path / "metrics.jsonl"

    def config(self) -> RunConfig:
        """Read the run's configuration back, checked against the plugins installed now."""
        return RunConfig.from_tree(self.config_tree())

    def config_tree(self) -> dict[str, Any]:
        """Read the run's configuration as plain data."""
        return read_json(self.path / "config.json")

    def env(self) -> dict[str, Any]:
        """Read what the run was made with; empty if that is not there, or damaged: no number depends on it."""
        return _read_or_empty(self.path / "env.json")

    def data(self) -> dict[str, Any]:
        """Read what the run's data was: split -> provenance and fingerprint, or None; empty in older runs."""
        file = self.path / "data.json"
        return read_json(file) if file.is_file() else {}

    def write_data(self, splits: Mapping[str, Mapping[str, str | None] | None]) -> None:
        """Write ``data.json``: what each split says of where its data comes from, None if it says nothing."""
        write_json(self.path / "data.json", splits)

    def status(self) -> dict[str, Any]:
        """Read the run's status; empty before it began, and where the file is damaged: the next one replaces it."""
        return _read_or_empty(self.path / "status.json")

    def write_status(self, state: str, **fields: Any) -> None:
        """Write ``status.json``: running, finished, interrupted or failed, with a heartbeat."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path / "status.json", {"state": state, "heartbeat": now, **fields})

    def pointer(self, which: str = "best") -> dict[str, Any]:
        """Return what ``best.json`` (``latest.json``, if the run had no validation) or ``latest.json`` says.

        Raises:
            UserError: If the run has no checkpoint, or the file is damaged.
        """
        order = ("best", "latest") if which == "best" else ("latest",)
        for name in order:
            file = self.path / f"{name}.json"
            if not file.is_file():
                continue
            found = read_json(file)
            if lacking := [key for key in ("step", "path") if key not in found]:
                raise UserError(f"{file} is damaged: it has no {' and no '.join(lacking)}")
            return found
        hint = "it ended before the first one was saved"
        raise UserError(f"{self.path} has no checkpoint", hint)

    def checkpoint(self, which: str = "best") -> Path:
        """Return the folder of the ``best`` or ``latest`` checkpoint.

        Raises:
            UserError: As :meth:`pointer`.
        """
        return self.path / self.pointer(which)["path"]

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``metrics.jsonl``, without those of a part of the run that a resume went back over."""
        rows: dict[tuple[int, str, str], dict[str, Any]] = {}
        if self.metrics_file.is_file():
            for line in self.metrics_file.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                    key = (row["step"], row["split"], row["name"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line torn by a kill, perhaps inside a character
                if key[1:] == RESUMED:
                    rows = {old: kept for old, kept in rows.items() if old[0] <= key[0]}
                    continue
                rows.pop(key, None)
                # JSON has no number that is not finite: null stands for each.
                rows[key] = {**row, "value": math.nan} if row.get("value", 0) is None else row
        yield from sorted(rows.values(), key=lambda row: row["step"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        UserError: If it is missing, not JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds {type(found).__name__} where a mapping belongs")
    return found


def _read_or_empty(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError:
        return {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; a number that is not finite is null there."""
    write_bytes(path, (json_text(value) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and flush it to disk, together with its folder's entry."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}", _remedy(error)) from None
    sync_folder(path.parent)


def _remedy(error: OSError) -> str:
    """Return what to do about a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make its folder writable"
    return ""


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit_folder(temporary: Path, final: Path) -> None:
    """Give a finished temporary folder its name; an older one of that name is replaced."""
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(temporary)
    old = temporary.with_name(f"{temporary.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    temporary.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)
