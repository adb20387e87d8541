"""What the selective copying task says about itself, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, Published, TaskSpec


@config
class SelectiveCopyingConfig:
    """Knobs of selective copying; by default the sizes of the published setting.

    Attributes:
        length: Elements before the markers, noise and tokens together.
        tokens: Tokens M to be given back; a row ends with as many markers, so it has length + M elements.
        vocabulary: Number of ids A: 0 is noise, 1 to A - 2 are tokens, A - 1 is the marker.
        n_train: Training rows.
        n_validation: Validation rows.
        n_test: Test rows.
        seed: Seed of the data; each split draws from a stream of its own.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    length: int = 4096
    tokens: int = 16
    vocabulary: int = 16
    n_train: int = 25_600
    n_validation: int = 1000
    n_test: int = 1000
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if not 1 <= self.tokens <= self.length:
            raise ValueError(f"tokens = {self.tokens} has to lie between 1 and length = {self.length}")
        if self.vocabulary < 4:
            raise ValueError(f"vocabulary = {self.vocabulary}: noise, marker and two tokens are the least")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")
        for name in ("n_train", "n_validation", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a split needs at least one row")


def _row(model: str, percent: float, backbone: str = "") -> Published:
    """Make a row of test accuracy."""
    return Published(
        model=model,
        metric="accuracy",
        value=round(percent / 100, 4),
        source="Mamba (Gu and Dao, 2023), table 1",
        backbone=backbone,
        settings=(("length", "4096"), ("tokens", "16")) if backbone else (),
    )


SPEC = TaskSpec(
    api=1,
    name="selective-copying",
    summary="tokens at random places in noise, to be given back in order (Mamba's form of the copying task)",
    config=SelectiveCopyingConfig,
    build="ssm_data.selective_copying.task:build",
    paper=Paper(
        title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        authors="Gu, Albert and Dao, Tri",
        year=2023,
        arxiv="2312.00752",
        bibtex="""@article{gu2023mamba,
  title={Mamba: Linear-Time Sequence Modeling with Selective State Spaces},
  author={Gu, Albert and Dao, Tri},
  journal={arXiv preprint arXiv:2312.00752},
  year={2023}
}""",
    ),
    published=(
        _row("Mamba (S6)", 99.8, "s6"),
        _row("H3 block, S6 inside", 99.7),
        _row("S6, no gate", 97.0),
        _row("H3 (S4 inside)", 57.0, "h3"),
        _row("Mamba block, S4 inside", 56.4),
        _row("Hyena", 30.1),
        _row("Mamba block, Hyena inside", 28.4),
        _row("S4, no gate", 18.3, "s4"),
    ),
)
