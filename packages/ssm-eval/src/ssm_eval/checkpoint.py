"""What a checkpoint tells without loading its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder


def pointer(run: RunFolder, which: str = "best") -> dict[str, Any]:
    """Return ``{step, path, metric, value}`` of a run's checkpoint, the one :meth:`RunFolder.checkpoint` chooses.

    Args:
        run: The run.
        which: ``best`` (the latest, if the run had no validation) or ``latest``.

    Raises:
        UserError: If the run has no checkpoint, or what points at it is damaged.
    """
    return {"metric": "", "value": None, **run.pointer(which)}


def count_parameters(run: RunFolder) -> int | None:
    """Return the number of scalars in a run's parameters, None before its first checkpoint.

    Runs that have not noted it themselves tell what their checkpoint holds: buffers too, and tied weights twice.
    """
    made = run.env().get("made", {})
    if "parameters" in made:
        return int(made["parameters"])
    try:
        return count_scalars(run.checkpoint() / "model.safetensors")
    except UserError:  # none yet, or damaged: neither is a reason to tell nothing else of the run
        return None


def count_scalars(file: Path) -> int:
    """Return the number of real scalars in a safetensors file, read from its header alone.

    These are a model's parameters and whatever buffers it saves; a complex number counts as two.

    Raises:
        UserError: If the file is missing or not of that format.
    """
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(length)) if length <= file.stat().st_size else None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{file} is not a safetensors file, or it is damaged")
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    return sum(math.prod(t["shape"]) * (2 if t["dtype"].startswith("C") else 1) for t in tensors)
