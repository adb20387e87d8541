"""What the digits task says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, TaskSpec

IMAGES = 1797
"""Images that there are."""


@config
class DigitsConfig:
    """Knobs of the digits task.

    Attributes:
        n_validation: Validation images; test images are drawn first, then these, and all others are for training.
        n_test: Test images.
        seed: Seed of the draw of the splits.
        pooling: How the head takes one vector of the 64.
        cache: Folder of prepared data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    n_validation: int = 144
    n_test: int = 360
    seed: int = 0
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")
        for name in ("n_validation", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a split needs at least one image")
        if self.n_train < 1:
            raise ValueError(f"n_validation + n_test leave none of the {IMAGES} images for training")

    @property
    def n_train(self) -> int:
        """Training images: those in neither of the other splits."""
        return IMAGES - self.n_validation - self.n_test


SPEC = TaskSpec(
    api=1,
    name="digits",
    summary="handwritten digits, 8x8 grey values read as 64 numbers: 1797 real images that scikit-learn ships",
    config=DigitsConfig,
    build="ssm_data.digits.task:build",
    paper=Paper(
        title="Optical Recognition of Handwritten Digits",
        authors="Alpaydin, E. and Kaynak, C.",
        year=1998,
        bibtex="""@misc{alpaydin1998optical,
  title={Optical Recognition of Handwritten Digits},
  author={Alpaydin, E. and Kaynak, C.},
  year={1998},
  howpublished={UCI Machine Learning Repository},
  doi={10.24432/C50P49}
}""",
    ),
)
