"""What a task's data is: sizes, shapes, hashes and sums, as ``ssm data info TASK --json`` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress, Split
from ssm_data.cache import content_hash


def info(task: str, progress: Progress | None = None, /, **knobs: Any) -> dict[str, Any]:
    """Describe the data of a task, making it first if it is not cached.

    Args:
        task: Name of the task.
        progress: Told how far the making is.
        **knobs: Its knobs.

    Returns:
        ``{"task", "splits": {split: {"size", "provenance", "arrays": {name: {"shape", "dtype", "sha256", "sum"}}}}}``,
        plain data; the hash is of the values in C order. Where values are missing (NaN), ``"missing"`` says how many,
        and the sum is that of the others.

    Raises:
        PluginError: Unknown task.
        ConfigError: Unknown or wrong knob.
        UserError: The cache cannot be written.
    """
    from ssm_data.loading import build

    built = build(task, knobs)
    built.prepare(progress)
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
    """Return shape, dtype, sha256 of the values in C order, and sum (an int for whole numbers) of an array.

    Missing values (NaN) are counted and not summed.
    """
    fractions = array.dtype.kind == "f"
    total = array.sum(dtype=np.float64 if fractions else np.int64)
    told = {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": content_hash(array)}
    if fractions and np.isnan(total) and (missing := int(np.isnan(array).sum())):
        return {**told, "sum": np.nansum(array, dtype=np.float64).item(), "missing": missing}
    return {**told, "sum": total.item()}


def _stacked(name: str, split: Split) -> Mapping[str, NDArray]:
    rows = [split[i] for i in range(len(split))]
    try:
        return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]} if rows else {}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the rows of split '{name}' cannot be stacked to be described: {error}",
            "give the split an attribute `arrays`: a dict of name -> NumPy array",
        ) from error
