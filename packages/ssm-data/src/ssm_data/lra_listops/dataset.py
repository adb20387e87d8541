"""The splits of ListOps: where they come from, and from the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Progress
from ssm_data import cache, files, sources
from ssm_data.lra_listops.generate import GENERATOR, ORDER, generate
from ssm_data.lra_listops.read import FILES, FOLDERS, READER, read
from ssm_data.lra_listops.spec import GENERATED, ListOpsConfig
from ssm_data.lra_listops.vocabulary import VOCABULARY
from ssm_data.tokens import TokenSplit

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

ROWS = {"train": 96_000, "validation": 2000, "test": 2000}
"""Of the official files."""


def load_splits(config: ListOpsConfig, progress: Progress | None = None) -> dict[str, TokenSplit]:
    """Return all splits, reading or making what the cache lacks.

    Raises:
        UserError: If files are asked for and are not there or not sound, or the cache cannot be written.
    """
    identity, make = _choose(config, progress)
    parts = cache.obtain(cache.root(config.cache), "lra-listops", identity, SPLITS, make)
    return {name: TokenSplit(part, VOCABULARY) for name, part in parts.items()}


def _choose(config: ListOpsConfig, progress: Progress | None) -> tuple[dict[str, Any], cache.Make]:
    """Return what the data is made from, and how, according to the source."""
    asked = config.source == "local" or (config.source == "auto" and not config.changed)
    found = _find(config.root) if asked else None
    if found:
        log.info("lra-listops: files in the official layout in %s", found["train"].parent)
        return _from_files(config, found, progress)
    # Who names a root means the files below it: lists made in their place might go unnoticed.
    if config.source == "local" or (asked and config.root is not None):
        raise sources.missing(
            "lra-listops",
            _folders(config.root),
            files=f"official files ({', '.join(FILES.values())}, or the same with .gz)",
            instead="--set task.source=generate",
        )
    if config.source == "auto":
        why = sources.made_because(config.changed)
        log.warning("lra-listops: %s; lists are made here by their algorithm, not the official ones", why)
    return _from_generator(config, progress)


def _folders(root: Path | None) -> list[Path]:
    """Return the folders in which files are looked for; a root that was named may be that of the files itself."""
    return sources.candidates(FOLDERS if root is None else (*FOLDERS, ""), root)


def _find(root: Path | None) -> dict[str, Path] | None:
    """Return the file of each split, from the first folder that has all.

    Raises:
        UserError: If folders have some of them, and none has all.
    """
    partly: dict[Path, list[str]] = {}
    for folder in _folders(root):
        # The later entry counts: the unpacked file where both lie there.
        either = [(split, folder / f"{name}{end}") for end in (".gz", "") for split, name in FILES.items()]
        there = {split: path for split, path in either if files.is_there(path)}
        found = {split: there[split] for split in FILES if split in there}
        if len(found) == len(FILES):
            return found
        if found:
            partly[folder] = [name for split, name in FILES.items() if split not in found]
    for folder, names in partly.items():
        raise UserError(
            f"lra-listops: {folder} has some of the official files, but not {' and '.join(names)} (nor with .gz)",
            "put all three there, or take lists made here: --set task.source=generate",
        )
    return None


def _from_files(
    config: ListOpsConfig, found: dict[str, Path], progress: Progress | None
) -> tuple[dict[str, Any], cache.Make]:
    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        for name in missing:
            arrays = read(found[name], config.max_length, config.append_eos, progress)
            yield name, arrays, sources.told(found[name], len(arrays["targets"]), ROWS[name])

    identity = {"reader": READER, "files": files.stamp(found.values()), "append_eos": config.append_eos}
    return identity, make


def _from_generator(
    config: ListOpsConfig, progress: Progress | None
) -> tuple[dict[str, Any], Callable[[list[str]], Iterator[tuple[str, cache.Arrays, str]]]]:
    made = (
        f"regenerated: by ssm_data.lra_listops, generator {GENERATOR}, seed {config.seed}, numpy {np.__version__}; "
        "the published algorithm, other lists than the official ones"
    )
    limits = [name for name in config.changed if name not in ("n_train", "n_validation", "n_test", "seed")]
    if limits:
        made += f"; other limits than published: {', '.join(f'{name} {getattr(config, name)}' for name in limits)}"

    def make(missing: list[str]) -> Iterator[tuple[str, cache.Arrays, str]]:
        for name, arrays in generate(config, missing, progress):
            yield name, arrays, made

    identity = {
        "generator": GENERATOR,
        "append_eos": config.append_eos,
        "order": list(ORDER),
        **{name: getattr(config, name) for name in GENERATED},
    }
    return identity, make
