"""What a task's data is: sizes, shapes, hashes and sums, as ``ssm data info TASK --json`` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Split
from ssm_data.cache import content_hash


def info(task: str, **knobs: Any) -> dict[str, Any]:
    """Describe the data of a task, making it first if it is not cached.

    Args:
        task: Name of the task.
        **knobs: Its knobs.

    Returns:
        ``{"task", "splits": {split: {"size", "provenance", "arrays": {name: {"shape", "dtype", "sha256", "sum"}}}}}``,
        plain data; the hash is of the values in C order.

    Raises:
        PluginError: Unknown task.
        ConfigError: Unknown or wrong knob.
        UserError: The cache cannot be written.
    """
    from ssm_data.loading import build

    built = build(task, knobs)
    return {"task": task, "splits": {name: describe(name, split) for name, split in built.splits().items()}}


def describe(name: str, split: Split) -> dict[str, Any]:
    """Describe one split.

    Args:
        name: Name of the split, for messages.
        split: A split; its ``arrays`` (name -> array) and ``provenance`` are used if it has them, its stacked rows
            otherwise.
    """
    arrays = getattr(split, "arrays", None) or _stacked(name, split)
    return {
        "size": len(split),
        "provenance": getattr(split, "provenance", "unknown"),
        "arrays": {key: describe_array(array) for key, array in arrays.items()},
    }


def describe_array(array: NDArray) -> dict[str, Any]:
    """Return shape, dtype, sha256 of the values in C order, and sum (an int for whole numbers) of an array."""
    total = array.sum(dtype=np.float64 if array.dtype.kind == "f" else np.int64)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": content_hash(array),
        "sum": total.item(),
    }


def _stacked(name: str, split: Split) -> Mapping[str, NDArray]:
    rows = [split[i] for i in range(len(split))]
    try:
        return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]} if rows else {}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the rows of split '{name}' cannot be stacked to be described: {error}",
            "give the split an attribute `arrays`: a dict of name -> NumPy array",
        ) from error
