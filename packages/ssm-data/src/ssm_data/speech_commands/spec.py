"""What the speech-commands task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, Published, TaskSpec

RATE = 16_000
"""Samples a second of the official clips, the longest of which last one second."""

TEN = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
"""The words of the smaller task."""


@config
class SpeechCommandsConfig:
    """Knobs of the speech-commands task.

    Attributes:
        source: Where the clips come from: files ("local"), or "auto", which is the same; nothing is downloaded.
        root: Data root below which files are looked for; by default what SSM_DATA_ROOT and DATA_PATH name, ./data and
            ./raw_datasets.
        classes: Number of words. 35: all of them, split by the official lists, which keep speakers apart. 10: the
            commands, clips of a full second only, split 70/15/15 by the seed with every word alike.
        rate: Samples a second that the model is given. 8000 takes every second sample, without a filter, as S4 and S5
            do to test a model on a rate that it was not trained on.
        time: What the model is told of the rate. "true": the gap before each sample as dt, 1 at 16000 and 2 at 8000;
            "ignored": nothing.
        pad: What is done to clips of less than a second: "zeros" fills them up, as published; "mask" hides what is
            behind their end.
        scaled: Subtract the mean of the training samples and divide by their deviation.
        pooling: How features of all samples become one: their mean, the largest, or that of the last or first.
        seed: Seed of the split of the ten words.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    source: Literal["auto", "local"] = "auto"
    root: Path | None = None
    classes: Literal[35, 10] = 35
    rate: Literal[16000, 8000] = 16000
    time: Literal["true", "ignored"] = "ignored"
    pad: Literal["zeros", "mask"] = "zeros"
    scaled: bool = True
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")

    @property
    def stride(self) -> int:
        """Official samples from one that the model is given to the next."""
        return RATE // self.rate

    @property
    def length(self) -> int:
        """Samples of a full second as the model is given it."""
        return self.rate


S5 = "S5 (Smith et al., ICLR 2023), as quoted by later papers"


def _row(model: str, percent: float, rate: int, source: str, backbone: str = "") -> Published:
    settings = (("classes", "35"), ("rate", str(rate)))
    value = round(percent / 100, 6)
    return Published(
        model=model, metric="accuracy", value=value, source=source, backbone=backbone, settings=settings
    )


SPEC = TaskSpec(
    api=1,
    name="speech-commands",
    summary="one of 35 or 10 spoken words from its raw wave, 16,000 samples; tested at half the rate",
    config=SpeechCommandsConfig,
    build="ssm_data.speech_commands.task:build",
    paper=Paper(
        title="Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
        authors="Warden, Pete",
        year=2018,
        arxiv="1804.03209",
        bibtex="""@article{warden2018speech,
  title={Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition},
  author={Warden, Pete},
  journal={arXiv preprint arXiv:1804.03209},
  year={2018}
}""",
    ),
    published=(
        _row("S5", 96.52, 16000, S5, "s5"),
        _row("S5, zero-shot", 94.53, 8000, S5, "s5"),
        _row("Liquid-S4", 96.78, 16000, "Liquid-S4 (Hasani et al., 2023)", "liquid_s4"),
    ),
)
