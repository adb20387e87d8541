"""What the pendulum task says about itself: knobs, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, Published, TaskSpec

FULL_LENGTH = 100
"""Frames in a full sequence."""


@config
class PendulumConfig:
    """Knobs of the pendulum task.

    Attributes:
        time: What the model is told of the irregular sampling. "true": the gap before each frame as dt (one frame = 1);
            "ignored": nothing; "appended": the gap as one more feature of each frame.
        frames: What the model sees of a frame. "images": its 24x24 grey values, through the published convolutions;
            "components": its first 48 principal components, fixed, through a small network: another and easier
            problem to compute, for experiments of many runs.
        sample_rate: Share of a sequence's 100 frames that is seen, in [0.01, 1]; which ones is drawn for each sequence.
        subsample_seed: Which draw of the seen frames: 0 is the published one, any other number another.
        n_train: Training sequences. Another number makes another data set, its test sequences included; not a part
            or a continuation of this one.
        n_validation: Validation sequences. Another number makes other sequences, not a part of these.
        n_test: Test sequences. Another number makes other sequences, not a part of these.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    time: Literal["true", "ignored", "appended"] = "true"
    frames: Literal["images", "components"] = "images"
    sample_rate: float = 0.5
    subsample_seed: int = 0
    n_train: int = 2000
    n_validation: int = 1000
    n_test: int = 1000
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if not 0 < self.sample_rate <= 1 or self.n_frames < 1:
            raise ValueError(f"sample_rate = {self.sample_rate} leaves no frame: it has to lie in [0.01, 1]")
        if self.subsample_seed < 0:
            raise ValueError(f"subsample_seed = {self.subsample_seed} is negative")
        for name in ("train", "validation", "test"):
            if self.size(name) < 1:
                raise ValueError(f"n_{name} = {self.size(name)}: a split needs at least one sequence")

    @property
    def n_frames(self) -> int:
        """Frames seen of each sequence."""
        # The published int(rate * 100), kept from losing a frame to binary fractions such as 0.29 * 100.
        return int(self.sample_rate * FULL_LENGTH + 1e-9)

    def size(self, split: str) -> int:
        """Return the number of sequences of a split."""
        return {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}[split]


S5 = "S5 (Smith et al., ICLR 2023), appendix F.3, as quoted by later papers"


def _row(
    model: str, mse: float, std: float, backbone: str = "", time: str = "", source: str = S5
) -> Published:
    """Make a row of test MSE, both numbers in units of 1e-3."""
    settings = (("time", time), ("sample_rate", "0.5"), ("frames", "images")) if time else ()
    return Published(
        model=model,
        metric="mse",
        value=round(mse * 1e-3, 8),
        std=round(std * 1e-3, 8),
        source=source,
        backbone=backbone,
        settings=settings,
    )


SPEC = TaskSpec(
    api=1,
    name="pendulum",
    summary="angle of a pendulum from 50 noisy 24x24 frames at irregular times (S5 and CRU protocol)",
    config=PendulumConfig,
    build="ssm_data.pendulum.task:build",
    paper=Paper(
        title="Modeling Irregular Time Series with Continuous Recurrent Units",
        authors="Mona Schirmer, Mazin Eltayeb, Stefan Lessmann, Maja Rudolph",
        year=2022,
        arxiv="2111.11344",
        bibtex="""@inproceedings{schirmer2022modeling,
  title = {Modeling Irregular Time Series with Continuous Recurrent Units},
  author = {Schirmer, Mona and Eltayeb, Mazin and Lessmann, Stefan and Rudolph, Maja},
  booktitle = {International Conference on Machine Learning},
  year = {2022},
}""",
    ),
    published=(
        _row("S5", 3.41, 0.27, "s5", "true"),
        _row("S5-append", 4.13, 0.43, "s5", "appended"),
        _row("S5-drop", 6.68, 0.38, "s5", "ignored"),
        _row("RoMAE", 3.32, 0.13, source="RoMAE, table 5"),
        _row("CRU, run by the S5 authors", 3.94, 0.21),
        _row("CRU", 4.63, 1.07),
        _row("RKN-dt", 5.09, 0.40),
        _row("GRU-dt", 5.44, 0.99),
        _row("f-CRU", 6.16, 0.88),
        _row("ODE-RNN", 7.26, 0.41),
        _row("RKN", 8.43, 0.61),
        _row("GRU", 9.44, 1.00),
        _row("GRU-ODE-B", 9.78, 3.40),
        _row("Latent ODE", 15.70, 2.85),
        _row("mTAND", 65.64, 4.05),
    ),
)
