"""What Pathfinder says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published

ROWS = 200_000
"""Pictures of a difficulty in the official release."""

RELEASED = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
"""Dashes of a target curve -> folder in the official release."""

SIZES = (32, 64, 128, 256)
"""Pixels of a side, in the official release."""

GENERATED = ("n_train", "n_validation", "n_test", "seed", "contrast")
"""Knobs of made pictures alone; asking for others than the published values asks for made pictures."""


@config
class PathfinderKnobs:
    """Knobs of Pathfinder at any size.

    Attributes:
        source: Where pictures come from: "local" files of the official release, "generate" for pictures made here after
            the published algorithm, or "auto": the files if they are there and no knob of made pictures is changed,
            else made ones (a warning and the provenance say so).
        root: Data root below which files are looked for; with "auto" they have to be there then, unless a knob asks for
            made pictures. By default what SSM_DATA_ROOT and DATA_PATH name, ./data and ./raw_datasets.
        contour_length: Dashes of each of the two long curves: 14 is the benchmark's; 6 and 9 are the release's easier
            ones; made pictures may have any number from 2 to 14.
        expected_rows: Pictures that the files' metadata have to list in all, lest a part is taken for the whole; 0
            takes what is there.
        split: Which files are for training, validation and test (80, 10 and 10 %): drawn at "random" as PyTorch's
            random_split draws them (S4, S5), or the first, the next and the last ones ("contiguous", LRA).
        split_seed: Seed of the random split; 42 is the published one.
        n_train: Training pictures, of made data; more of them continue the same ones.
        n_validation: Validation pictures, of made data.
        n_test: Test pictures, of made data.
        seed: Seed of made data; each picture has a stream of its own.
        contrast: Brightness of made curves: as "published", where at 32 pixels the distractors are a third brighter
            than the targets, or "equal".
        workers: Threads that make pictures, which are the same for any number; 0 takes all cores.
        inputs: Grey values as numbers, one a step ("values"), or as "tokens" of 256 kinds (the original LRA).
        mean: Subtracted from values, in units of white; S4 takes 0, Mega 0.5.
        std: Values are divided by it, in units of white; S4 takes 1, Mega 0.5.
        pooling: How features of all steps become one: their mean, the largest, or that of the last or first step.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    source: Literal["auto", "local", "generate"] = "auto"
    root: Path | None = None
    contour_length: int = 14
    expected_rows: int = ROWS
    split: Literal["random", "contiguous"] = "random"
    split_seed: int = 42
    n_train: int = 160_000
    n_validation: int = 20_000
    n_test: int = 20_000
    seed: int = 0
    contrast: Literal["published", "equal"] = "published"
    workers: int = 1
    inputs: Literal["values", "tokens"] = "values"
    mean: float = 0.0
    std: float = 1.0
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if not 2 <= self.contour_length <= 14:
            raise ValueError(f"contour_length = {self.contour_length} has to lie in [2, 14]")
        if self.source == "local" and self.contour_length not in RELEASED:
            raise ValueError(f"contour_length = {self.contour_length}: the release has 6, 9 and 14 only")
        if self.source == "local" and self.changed:
            raise ValueError(
                f"source = local reads the pictures as they are: leave out {', '.join(self.changed)}, or "
                "--set task.source=generate"
            )
        if self.std <= 0:
            raise ValueError(f"std = {self.std} has to be above 0")
        for name in ("seed", "split_seed", "expected_rows", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} is negative")
        for split, size in self.sizes.items():
            if size < 1:
                raise ValueError(f"n_{split} = {size}: a split needs at least one picture")

    @property
    def changed(self) -> tuple[str, ...]:
        """Knobs of made pictures that are not as published."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return tuple(name for name in GENERATED if getattr(self, name) != defaults[name])

    @property
    def sizes(self) -> dict[str, int]:
        """Number of made pictures of each split."""
        return {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}


@config
class PathfinderConfig(PathfinderKnobs):
    """Knobs of the LRA Pathfinder task.

    Attributes:
        resolution: Pixels of a side: 32 is the benchmark's, 64 and 256 are the release's, 16 is a small one of our own,
            made only.
    """

    resolution: Literal[16, 32, 64, 128, 256] = 32

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range, or knobs contradict each other.
        """
        PathfinderKnobs.__post_init__(self)
        if self.resolution == 16 and self.source == "local":
            raise ValueError("resolution = 16 is not in the release: take source = generate")
        if self.resolution == 16 and self.contour_length > 6:
            raise ValueError(
                f"resolution = 16 has no room for contour_length = {self.contour_length}: at most 6"
            )


SPEC = TaskSpec(
    api=1,
    name="lra-pathfinder",
    summary="are two discs joined by a dashed curve? 32x32 pictures read as 1024 pixels (Long Range Arena)",
    config=PathfinderConfig,
    build="ssm_data.lra_pathfinder.task:build",
    paper=PAPER,
    published=published("pathfinder", resolution="32", contour_length="14"),
)
