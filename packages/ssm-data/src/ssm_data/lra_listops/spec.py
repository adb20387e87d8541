"""What the ListOps task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published

GENERATED = (
    *("min_length", "max_length", "max_depth", "max_args", "operator_share"),
    *("n_train", "n_validation", "n_test", "seed"),
)
"""Knobs of the generator: files are read as they are, whatever these say."""


@config
class ListOpsConfig:
    """Knobs of the ListOps task.

    Attributes:
        source: Where the lists come from: the official files (local), the exact generator (generate), or auto: the
            files if they are there and no knob of the generator is set, else the generator, with a warning.
        root: Folder in which the official files are looked for, or their own; with auto they have to be there then,
            unless a knob of the generator is set. By default those that SSM_DATA_ROOT and DATA_PATH name, data and
            raw_datasets.
        min_length: Every list made here is longer; brackets of operators count, the closing id does not.
        max_length: Every list is shorter.
        max_depth: Depth at which only digits stand, the whole list being at depth 1; so at most max_depth - 1
            operators are nested.
        max_args: Most arguments of an operator; it has at least 2.
        operator_share: Share of operators among nodes above max_depth.
        n_train: Training lists made here. Fewer are the beginning of more.
        n_validation: Validation lists made here.
        n_test: Test lists made here.
        seed: Which draw of the lists.
        append_eos: Close every list with an id of its own.
        workers: Processes that make lists; the lists do not depend on it.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    source: Literal["auto", "local", "generate"] = "auto"
    root: Path | None = None
    min_length: int = 500
    max_length: int = 2000
    max_depth: int = 10
    max_args: int = 10
    operator_share: float = 0.25
    n_train: int = 96_000
    n_validation: int = 2_000
    n_test: int = 2_000
    seed: int = 0
    append_eos: bool = True
    workers: int = 1
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is asked of files that only a generator can do.

        Raises:
            ValueError: If a knob is out of its range, or contradicts another.
        """
        if not 1 <= self.min_length < self.max_length - 1:
            raise ValueError(
                "1 <= min_length and min_length + 1 < max_length must hold: both bounds are strict"
            )
        if self.max_depth < 2:
            raise ValueError("max_depth must be at least 2: at depth 1 stands the whole list")
        if not 2 <= self.max_args <= 100:
            raise ValueError("max_args must be in 2 to 100")
        if not 0 < self.operator_share <= 1:
            raise ValueError("operator_share must be above 0 and at most 1")
        if not 0 <= self.seed < 1 << 32 or self.workers < 1:
            raise ValueError("seed must be in 0 to 2^32 - 1, and workers at least 1")
        if min(self.n_train, self.n_validation, self.n_test) < 1:
            raise ValueError("n_train, n_validation and n_test must be at least 1")
        if self.source == "local" and self.changed:
            raise ValueError(
                f"source = local reads the files as they are: leave out {', '.join(self.changed)}, or "
                "--set task.source=generate"
            )

    @property
    def changed(self) -> tuple[str, ...]:
        """Knobs of the generator that are not as published."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return tuple(name for name in GENERATED if getattr(self, name) != defaults[name])

    def size(self, split: str) -> int:
        """Return the number of lists to make of a split."""
        return {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}[split]


SPEC = TaskSpec(
    api=1,
    name="lra-listops",
    summary="value of a nested list of operations on digits, 500 to 2000 tokens (Long Range Arena)",
    config=ListOpsConfig,
    build="ssm_data.lra_listops.task:build",
    paper=PAPER,
    published=published("listops", min_length="500", max_length="2000", max_depth="10"),
)
