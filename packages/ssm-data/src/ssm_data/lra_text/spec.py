"""What the text task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published

HUB = "stanfordnlp/imdb"

REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
"""Of the hub's data set: what was looked at, and is called official."""


@config
class TextConfig:
    """Knobs of the text task.

    Attributes:
        dataset: The texts. "imdb": the benchmark's film reviews, good or bad. "spam": the mails of the SpamAssassin
            corpus without their headers, spam or not; far fewer and easier, so only a stand-in to try things with.
        source: Where the reviews come from: files (local), a download (hub), or auto: the files, and an error if there
            are none.
        root: Folder in which the files are looked for; by default those that SSM_DATA_ROOT and DATA_PATH name, data
            and raw_datasets.
        revision: Revision of stanfordnlp/imdb that is downloaded.
        level: What has an id: every byte, as in the first Long Range Arena, or every character that is frequent
            enough, as in the S4 pipeline.
        min_freq: Characters that occur less often in the training reviews share one id.
        append_eos: Close every review with an id of its own.
        max_length: Most ids of a review, the closing one included; the rest is cut off.
        validation: The test split, as published, or a share of the training reviews, such as 0.1, held out of it.
        seed: Which draw of that share; of mails also which fifth of them is tested on.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    dataset: Literal["imdb", "spam"] = "imdb"
    source: Literal["auto", "local", "hub"] = "auto"
    root: Path | None = None
    revision: str = REVISION
    level: Literal["byte", "char"] = "byte"
    min_freq: int = 15
    append_eos: bool = True
    max_length: int = 4096
    validation: Literal["test"] | float = "test"
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range, or knobs contradict each other.
        """
        if self.max_length < 1 + self.append_eos:
            raise ValueError("max_length must leave room for at least one id of text")
        if self.min_freq < 1 or self.seed < 0:
            raise ValueError("min_freq must be at least 1, and seed not negative")
        if self.validation != "test" and not 0 < self.validation < 1:
            raise ValueError("validation must be test, or a share between 0 and 1")
        if self.dataset != "imdb" and self.source == "hub":
            raise ValueError(f"dataset = {self.dataset} is read from files: source = hub is for imdb")


SPEC = TaskSpec(
    api=1,
    name="lra-text",
    summary="film reviews, good or bad, by bytes or characters, up to 4096 (Long Range Arena, IMDB)",
    config=TextConfig,
    build="ssm_data.lra_text.task:build",
    paper=PAPER,
    published=published("text", dataset="imdb", max_length="4096", validation="test"),
)
