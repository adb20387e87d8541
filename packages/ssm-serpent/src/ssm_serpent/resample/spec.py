"""What the probe `resample` is called and takes; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import ProbeSpec


@config
class ResampleConfig:
    """What a trained model's resampling layers make of one sequence.

    Attributes:
        index: Which sequence of the test split; from its end if below 0. Left out it is the first.
        text: A text to take instead, for tasks whose elements are bytes, characters or pieces of text.
        layers: Blocks to look into: "*", "0,2" or a slice such as "1::2".
        shown: Elements that are printed of each branch; the page has all.
        color: Whether the printed text is coloured by interval; auto colours it in a terminal, unless NO_COLOR is set.
    """

    index: int | None = None
    text: str | None = None
    layers: str = "*"
    shown: int = 400
    color: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: Naming the knob that is out of its range, or the two that exclude each other.
        """
        if self.shown < 0:
            raise ValueError("shown must be at least 0")
        if self.text == "":
            raise ValueError(
                "text has nothing in it: give some, or leave it out and choose a sequence by index"
            )
        if self.text is not None and self.index is not None:
            raise ValueError(
                f"text and index = {self.index} both say which sequence to show: give the text, or a sequence of the "
                "test split by index"
            )


SPEC = ProbeSpec(
    api=1,
    name="resample",
    summary="intervals, points and merged elements of one sequence, layer by layer, branch by branch",
    config=ResampleConfig,
    build="ssm_serpent.resample.measure:probe",
    flags=("text", "index"),
)
