"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all, pointed to by latest and best."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder, commit_folder, read_json, write_json

_HIDDEN = ".tmp-"


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on.

    Attributes:
        step: Optimiser steps taken.
        model: Weights and buffers by name.
        optimizer: Moments by name.
        rng: Generator states of each process, ``<rank>/torch`` and so on.
        state: Plain data: generators of Python and NumPy, scaler, best value and its pointer, time spent.
        streams: States that go from batch to batch, of each process, ``<rank>/<slice>/<path>``; none between epochs.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    state: dict[str, Any]
    streams: dict[str, Tensor] = field(default_factory=dict)


def save(run: RunFolder, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, move the pointers, and delete what is no longer kept.

    Args:
        run: The run.
        checkpoint: What to write; its state holds the pointers ``latest`` and, once there is one, ``best``.
        keep: Number of latest checkpoints to keep beside the best.

    Raises:
        UserError: If it cannot be written; the earlier checkpoints, if there are any, stand.
    """
    final = _folder(run, checkpoint.step)
    temporary = run.checkpoints / f"{_HIDDEN}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name in ("model", "optimizer", "rng", *(("streams",) if checkpoint.streams else ())):
            # A tensor that shares memory with another (tied weights) is written out on its own.
            tensors = {
                key: t.detach().cpu().clone().contiguous() for key, t in getattr(checkpoint, name).items()
            }
            save_file(tensors, temporary / f"{name}.safetensors")
        state = temporary / "state.json"
        state.write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}))
        for file in temporary.glob("*.safetensors"):
            shutil.copymode(state, file)  # safetensors lets nobody else read, whatever the umask says
        hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(
            json.dumps({"step": checkpoint.step, "sha256": hashes}, indent=2)
        )
        commit_folder(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        hint = (
            f"none was saved before it; free some space, then begin anew with --config {run.path}/config.json"
        )
        if (run.path / "latest.json").is_file():
            hint = f"the earlier checkpoints stand; free some space, then --resume {run.path}"
        raise UserError(
            f"cannot write the checkpoint of step {checkpoint.step} to {final}: {error}", hint
        ) from None
    write_pointers(run, checkpoint.state)
    _retain(run, keep, final)
    return final


def pointer(run: RunFolder, step: int, metric: str, value: float | None) -> dict[str, Any]:
    """Return what ``latest.json`` or ``best.json`` says of a checkpoint."""
    path = _folder(run, step).relative_to(run.path)
    return {"step": step, "path": str(path), "metric": metric, "value": value}


def write_pointers(run: RunFolder, state: Mapping[str, Any]) -> None:
    """Point ``latest.json`` and ``best.json`` where a checkpoint's state says; where it says nothing, there is no file.

    The state is the truth: after a kill between a checkpoint and its pointers, resuming writes them anew.
    """
    for name in ("latest", "best"):
        if state.get(name):
            write_json(run.path / f"{name}.json", state[name])
        else:
            (run.path / f"{name}.json").unlink(missing_ok=True)


def _folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}"


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder, checking every file's hash.

    Raises:
        UserError: If a file is missing or damaged.
    """
    files = check(path)
    names = [name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")]
    try:
        tensors = {name: load_file(path / f"{name}.safetensors") for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    state = read_json(path / "state.json")
    return Checkpoint(step=state["step"], state=state, **tensors)


def check(path: Path) -> list[str]:
    """Return the names of a checkpoint folder's files, every one of them intact.

    Raises:
        UserError: If a file is missing, damaged or cannot be read.
    """
    hashes = read_json(path / "manifest.json")["sha256"]
    for name, expected in hashes.items():
        file = path / name
        try:
            intact = _sha256(file) == expected
        except FileNotFoundError:
            raise UserError(f"{file} is missing") from None
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
        if not intact:
            raise UserError(f"{file} is damaged")
    return list(hashes)


def load_latest(run: RunFolder) -> tuple[Checkpoint, list[str]]:
    """Return the newest checkpoint that is intact, and notices about newer ones that are not.

    Raises:
        UserError: If there is none.
    """
    notices: list[str] = []
    for path in sorted(run.checkpoints.glob("step-*"), reverse=True):
        try:
            return load(path), notices
        except UserError as error:
            notices.append(f"{error.what}; going back to the checkpoint before it")
    what = f"{run.path} has no intact checkpoint"
    anew = f"begin anew with --config {run.path}/config.json"
    if (run.path / "latest.json").is_file() and not notices:
        raise UserError(what, f"those it had are no longer in {run.checkpoints}: put one back, or {anew}")
    raise UserError(what, "\n  ".join(notices) or f"it ended before the first one was saved: {anew}")


def _retain(run: RunFolder, keep: int, newest: Path) -> None:
    steps = sorted(run.checkpoints.glob("step-*"))
    # Steps beyond the newest are of a part of the run that was given up, because they were damaged.
    kept = set([path for path in steps if path <= newest][-keep:])
    # What was best when an older one was written is best again if the newer ones are damaged.
    kept |= {best for path in list(kept) if (best := _best(run, path)) is not None}
    for path in steps:
        if path not in kept:
            # Renamed first: a kill in the middle of deleting leaves no half checkpoint under a real name.
            hidden = run.checkpoints / f"{_HIDDEN}old-{path.name}"
            path.rename(hidden)
    for leftover in run.checkpoints.glob(f"{_HIDDEN}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _best(run: RunFolder, path: Path) -> Path | None:
    """Return the folder of the best checkpoint at the time that one was written."""
    try:
        best = read_json(path / "state.json").get("best")
    except UserError:
        return None  # it is damaged, and nothing goes back to it
    return run.path / best["path"] if best else None


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
