"""What the ts task says about itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, TaskSpec


@config
class TsConfig:
    """Knobs of the ts task.

    Attributes:
        dataset: Name of the data set: the files are NAME/NAME_TRAIN.ts and NAME/NAME_TEST.ts.
        source: Where they come from: files ("local"), or "auto", which is the same; nothing is downloaded.
        root: Data root below which files are looked for; by default what SSM_DATA_ROOT and DATA_PATH name, ./data,
            ./raw_datasets and the files that come with the package aeon, if it is installed.
        target: What is asked: the class of a series (files with @classLabel) or a number (with @targetLabel).
        validation: Share of the training file that is held out, of every class alike, drawn by the seed; or "test":
            checkpoints are selected on the test file, as published figures often are.
        seed: Seed of that draw.
        time: What the model is told of time stamps. "true": the gap before each element as dt, in units of the training
            split's median gap; "ignored": nothing; "appended": the gap as one more channel. The last is for files
            that have time stamps, and so is the first.
        missing: What stands where a value is missing: the channel's mean ("mask") or the last value seen ("forward").
            Either way, if any value of the files is missing, every channel gets a second one that tells.
        scaled: Subtract each channel's mean and divide by its deviation, both of the training split.
        pooling: How features of all elements become one: their mean, the largest, or that of the last or first.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    dataset: str = "JapaneseVowels"
    source: Literal["auto", "local"] = "auto"
    root: Path | None = None
    target: Literal["class", "value"] = "class"
    validation: Literal["test"] | float = 0.2
    seed: int = 0
    time: Literal["true", "ignored", "appended"] = "ignored"
    missing: Literal["mask", "forward"] = "mask"
    scaled: bool = True
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if not re.fullmatch(r"\w[\w.-]*", self.dataset):
            raise ValueError(
                f"dataset = {self.dataset!r} is no name of a data set: a word such as JapaneseVowels"
            )
        if self.validation != "test" and not 0 < self.validation < 1:
            raise ValueError("validation must be test, or a share between 0 and 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")


SPEC = TaskSpec(
    api=1,
    name="ts",
    summary="any data set of the UEA and UCR archives (.ts files): the class of a series, or a number",
    config=TsConfig,
    build="ssm_data.ts.task:build",
    paper=Paper(
        title="The UEA multivariate time series classification archive, 2018",
        authors="Bagnall, Anthony and Dau, Hoang Anh and Lines, Jason and Flynn, Michael and Large, James and others",
        year=2018,
        arxiv="1811.00075",
        bibtex="""@article{bagnall2018uea,
  title={The {UEA} multivariate time series classification archive, 2018},
  author={Bagnall, Anthony and Dau, Hoang Anh and Lines, Jason and Flynn, Michael and Large, James and
    Bostrom, Aaron and Southam, Paul and Keogh, Eamonn},
  journal={arXiv preprint arXiv:1811.00075},
  year={2018}
}""",
    ),
)
