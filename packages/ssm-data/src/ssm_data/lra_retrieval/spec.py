"""What the retrieval task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec
from ssm_data.lra import PAPER, published


@config
class RetrievalConfig:
    """Knobs of the retrieval task.

    Attributes:
        source: Where the pairs come from: the official files. auto and local mean the same; nothing else has the
            texts, and they cannot be made.
        root: Folder in which the files are looked for; by default those that SSM_DATA_ROOT and DATA_PATH name, data
            and raw_datasets.
        level: What has an id: every character of the training texts that is frequent enough, or every byte.
        min_freq: Characters that occur less often in the training texts share one id.
        append_eos: Close every text with an id of its own.
        max_length: Most ids of a text, the closing one included; the rest is cut off.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    source: Literal["auto", "local"] = "auto"
    root: Path | None = None
    level: Literal["char", "byte"] = "char"
    min_freq: int = 1
    append_eos: bool = True
    max_length: int = 4000
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if self.max_length < 1 + self.append_eos:
            raise ValueError("max_length must leave room for at least one id of text")
        if self.min_freq < 1:
            raise ValueError("min_freq must be at least 1")


SPEC = TaskSpec(
    api=1,
    name="lra-retrieval",
    summary="does one paper cite the other: two texts of up to 4000 characters (Long Range Arena, AAN)",
    config=RetrievalConfig,
    build="ssm_data.lra_retrieval.task:build",
    paper=PAPER,
    published=published("retrieval", max_length="4000"),
)
