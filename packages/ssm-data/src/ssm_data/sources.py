"""Where a task's data comes from: the user's files, the hub, or a generator; never one for another unsaid.

``local`` looks for the official layouts under the data roots, ``hub`` downloads at a pinned revision, ``generate`` runs
a generator. ``auto`` is local where there is no generator: an error if the files are nowhere. Where there is one, it is
local if the files are there and no knob asks for other data than theirs, and generate otherwise; but below a root that
the task was given they have to be there, if no knob does. It never downloads.
What was taken is said in the data's provenance.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from ssm_core.plugin.errors import UserError
from ssm_data.files import hashed, is_there, sha256

Source: TypeAlias = Literal["auto", "local", "hub", "generate"]

PLACES = ("", "lra_release", "lra_release/lra_release")
"""Where below a data root official archives are found unpacked."""


def roots(chosen: Path | None = None) -> list[Path]:
    """Return the folders to look in: the chosen, else $SSM_DATA_ROOT, $DATA_PATH, ``data`` and ``raw_datasets``."""
    if chosen is not None:
        return [Path(chosen).expanduser().absolute()]
    named = [os.environ.get("SSM_DATA_ROOT"), os.environ.get("DATA_PATH"), "data", "raw_datasets"]
    return [Path(name).expanduser().absolute() for name in named if name]


def candidates(folders: Sequence[str], chosen: Path | None = None) -> list[Path]:
    """Return every folder where a data set may lie, in the order in which they are looked at.

    Args:
        folders: Names that the data set's folder goes by, such as ``("listops-1000", "listops")``.
        chosen: The user's data root, or None.
    """
    return [root / place / folder for root in roots(chosen) for place in PLACES for folder in folders]


def find(folders: Sequence[str], files: Iterable[str], chosen: Path | None = None) -> Path | None:
    """Return the first folder that holds all of some files, or None.

    Args:
        folders: Names that the data set's folder goes by.
        files: Paths below it that have to be there.
        chosen: The user's data root, or None.

    Raises:
        UserError: If a folder may not be looked into.
    """
    files = list(files)
    for folder in candidates(folders, chosen):
        if all(is_there(folder / name) for name in files):
            return folder
    return None


def made_because(knobs: Sequence[str]) -> str:
    """Return why ``auto`` makes data: knobs that only made data have, or that there are no files."""
    if not knobs:
        return "no official files were found"
    return f"{', '.join(knobs)} {'asks' if len(knobs) == 1 else 'ask'} for made ones"


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts, such as ``1 file`` and ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def told(path: Path | str, rows: int, official: int, hashes: Sequence[str] = ()) -> str:
    """Return the provenance of what was found by its place and name, which anybody may give a file.

    Args:
        path: The file, or the names of several.
        rows: How many rows there are.
        official: How many the official release has.
        hashes: The sha256 of each file, if they are known.
    """
    size = "" if rows == official else f"; NOT the official size: {counted(rows, 'row')}, not {official:,}"
    return f"official layout: {path}, {hashed(hashes or [sha256(Path(path))])}{size}"


def kind_of(revision: str, pinned: str) -> str:
    """Return what the data of a revision on the hub may be called: what another one holds was never looked at."""
    return "official (the pinned revision)" if revision == pinned else "of a revision of your own"


def missing(
    task: str, looked: Iterable[Path], *, files: str, hub: str = "", instead: str = "", stand_in: str = ""
) -> UserError:
    """Return the error for data that is nowhere: the ways out, and then where it looked.

    Args:
        task: Name of the task.
        looked: The folders looked at.
        files: What was looked for, in words.
        hub: The hub's id of the data set, if it has one.
        instead: The command that makes data of the same kind, if there is one.
        stand_in: What may be taken in its place, and the command, if there is something of the same shape.
    """
    ways = ["put the files there, or name their root: --set task.root=... or SSM_DATA_ROOT=..."]
    if hub:
        ways.append(f"let it be downloaded ({hub}): --set task.source=hub")
    if instead:
        ways.append(f"take data made here instead, which is not the official one: {instead}")
    if stand_in:
        ways.append(f"take a stand-in, which is other data of the same shape: {stand_in}")
    end = "" if hub else ". There is no id of it on the hub that is known here"
    end += "" if hub or instead else ", and no generator"
    return UserError(f"{task} found no {files}", "\n  or ".join(ways) + end + _listed(looked))


def _listed(looked: Iterable[Path]) -> str:
    """Return the folders one a line, each once: that all are looked for below ``lra_release`` too is said once."""
    every, shown = list(looked), dict[Path, Path]()
    for path in every:
        plain = Path(*(part for part in path.parts if part != "lra_release"))
        shown[plain] = min(path, shown.get(plain, path), key=lambda each: len(each.parts))
    more = f" (and so below {' and '.join(PLACES[1:])})" if len(shown) < len(set(every)) else ""
    return (
        "".join([f"\n  it looked in{more}", *(f"\n    {path}" for path in shown.values())]) if every else ""
    )
