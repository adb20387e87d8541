"""The splits of ListOps: where they come from, and from the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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
    found = None
    if config.source == "local" or (config.source == "auto" and not config.changed):
        found = _find(config.root)
    if found:
        log.info("lra-listops: files in the official layout in %s", found["train"].parent)
        return _from_files(config, found, progress)
    if config.source == "local":
        raise sources.missing(
            "lra-listops",
            sources.candidates(FOLDERS, config.root),
            files=f"official files ({', '.join(FILES.values())}, or the same with .gz)",
            instead="--set task.source=generate",
        )
    log.info("lra-listops: lists made here by the published algorithm, not the official ones")
    return _from_generator(config, progress)


def _find(root: Path | None) -> dict[str, Path] | None:
    for suffix in ("", ".gz"):
        names = {split: name + suffix for split, name in FILES.items()}
        if folder := sources.find(FOLDERS, names.values(), root):
            return {split: folder / name for split, name in names.items()}
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
