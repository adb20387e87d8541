"""What a task's splits say of where their data comes from, and which of them are not what a run began with."""

from __future__ import annotations

from collections.abc import Mapping

from ssm_core.protocols import Task

Told = Mapping[str, str | None] | None
"""``{provenance, fingerprint}`` of a split; None for one that has no provenance."""


def data_of(task: Task) -> dict[str, dict[str, str | None] | None]:
    """Return the provenance and the fingerprint of each split; None for one that has no provenance."""
    told: dict[str, dict[str, str | None] | None] = {}
    for name, split in task.splits().items():
        said = {key: getattr(split, key, None) for key in ("provenance", "fingerprint")}
        plain = {key: None if value is None else str(value) for key, value in said.items()}
        told[name] = plain if plain["provenance"] is not None else None
    return told


def changed(held: Mapping[str, Told], now: Mapping[str, Told]) -> dict[str, str]:
    """Return the fingerprints, now, of the splits that have another one than before, as far as both can tell.

    Args:
        held: What the run keeps of its data (:meth:`ssm_core.run.folder.RunFolder.data`).
        now: What :func:`data_of` says.
    """
    found: dict[str, str] = {}
    for name, told in now.items():
        before = (held.get(name) or {}).get("fingerprint")
        after = (told or {}).get("fingerprint")
        if before is not None and after is not None and before != after:
            found[name] = after
    return found
