"""The model of a run, and where it is to compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssm_core.model import SequenceModel
from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder
from ssm_core.run.load import load
from ssm_eval.checkpoint import pointer


def load_checkpoint(
    folder: RunFolder, which: str, changes: Mapping[str, Any] | None = None
) -> tuple[SequenceModel, RunConfig, int]:
    """Return model, configuration and step of one and the same checkpoint, also while the run goes on.

    Raises:
        UserError: As :func:`ssm_core.run.load.load`.
    """
    while True:
        chosen = pointer(folder, which)
        try:
            model, config = load(folder.path, which=which, overrides=changes)
        except UserError:
            # Training deletes a checkpoint when it has a better one.
            if pointer(folder, which)["path"] == chosen["path"]:
                raise
            continue
        if pointer(folder, which)["path"] == chosen["path"]:
            return model, config, chosen["step"]


def find_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is a CUDA device if there is one, else the CPU.

    Raises:
        UserError: If torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device '{name}'", "known: auto, cpu, cuda, cuda:1, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"the device '{name}' is not there", "--device cpu")
    return device
