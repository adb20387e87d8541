"""What the image task of the Long Range Arena says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published

LENGTH = 1024
"""Pixels of a picture, 32 x 32."""


@config
class LRAImageConfig:
    """Knobs of the LRA image task.

    Attributes:
        dataset: The pictures. "cifar10": the benchmark's. "fashion-mnist": clothes, 28 x 28, with a black frame of 2
            pixels; of the same shape and number of classes, but easier, so only a stand-in to try things with.
        source: Where they come from: "local" files, the "hub" (a download of CIFAR-10), or "auto", which is local.
            There is no generator.
        root: Data root below which files are looked for; by default what SSM_DATA_ROOT and DATA_PATH name, ./data and
            ./raw_datasets.
        revision: Revision that the hub is asked for; by default the one whose content this was written for.
        grey: How colours become grey: as Pillow and torchvision do it (weights .299, .587, .114, rounded), or as
            TensorFlow does (.2989, .587, .114, in float32). They differ by 1 in some pixels.
        split: Which tenth of the 50,000 training pictures is for validation: a "random" one, drawn as PyTorch's
            random_split draws it (S4, S5), or all but the "first" nine tenths (LRA).
        split_seed: Seed of the random split; 42 is the published one.
        inputs: Grey values as numbers, one a step ("values"), or as "tokens" of 256 kinds (the original LRA).
        mean: Subtracted from values, in units of white; 122.6/255 is S4's for CIFAR-10.
        std: Values are divided by it, in units of white; 61/255 is S4's for CIFAR-10.
        pooling: How features of all steps become one: their mean, the largest, or that of the last or first step.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    dataset: Literal["cifar10", "fashion-mnist"] = "cifar10"
    source: Literal["auto", "local", "hub"] = "auto"
    root: Path | None = None
    revision: str | None = None
    grey: Literal["pillow", "tensorflow"] = "pillow"
    split: Literal["random", "first"] = "random"
    split_seed: int = 42
    inputs: Literal["values", "tokens"] = "values"
    mean: float = 122.6 / 255
    std: float = 61.0 / 255
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that the data set is where it is asked for.

        Raises:
            ValueError: If a knob is out of its range, or knobs contradict each other.
        """
        if self.std <= 0:
            raise ValueError(f"std = {self.std} has to be above 0")
        if self.split_seed < 0:
            raise ValueError(f"split_seed = {self.split_seed} is negative")
        if self.dataset != "cifar10" and self.source == "hub":
            raise ValueError(f"dataset = {self.dataset} is read from files: source = hub is for cifar10")


SPEC = TaskSpec(
    api=1,
    name="lra-image",
    summary="CIFAR-10 in grey, read as a sequence of 1024 pixels, 10 classes (Long Range Arena)",
    config=LRAImageConfig,
    build="ssm_data.lra_image.task:build",
    paper=PAPER,
    published=published("image", dataset="cifar10"),
)
