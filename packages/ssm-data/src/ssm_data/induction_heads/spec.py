"""What the induction heads task says about itself, and the figures of the literature."""

from __future__ import annotations

from pathlib import Path

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, Published, TaskSpec


@config
class InductionHeadsConfig:
    """Knobs of induction heads; by default the published training length.

    Attributes:
        length: Tokens of a row, the special token at its end included.
        test_length: Tokens of a row of the test split; none is the length of the others. Change it when a trained
            model is evaluated, to see how far it carries.
        vocabulary: Number of ids V; the last one is the special token.
        n_train: Training rows.
        n_validation: Validation rows.
        n_test: Test rows.
        seed: Seed of the data; each split draws from a stream of its own.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    length: int = 256
    test_length: int | None = None
    vocabulary: int = 16
    n_train: int = 65_536
    n_validation: int = 1000
    n_test: int = 1000
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        for name in ("length", "test_length"):
            value = getattr(self, name)
            if value is not None and value < 3:
                raise ValueError(f"{name} = {value}: special token, answer and special token are the least")
        if self.vocabulary < 3:
            raise ValueError(
                f"vocabulary = {self.vocabulary}: the special token and two others are the least"
            )
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")
        for name in ("n_train", "n_validation", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a split needs at least one row")


SPEC = TaskSpec(
    api=1,
    name="induction-heads",
    summary="the token that followed the special one, asked for when it comes again (Mamba's form of the task)",
    config=InductionHeadsConfig,
    build="ssm_data.induction_heads.task:build",
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
    published=tuple(
        Published(
            model=f"Mamba, trained at length 256, tested at {length:,}",
            metric="accuracy",
            value=1.0,
            source="Mamba (Gu and Dao, 2023), table 2",
            backbone="s6",
            settings=(("length", "256"), ("test_length", tested)),
        )
        for length, tested in ((256, "None"), (4096, "4096"), (65_536, "65536"), (1_048_576, "1048576"))
    ),
)
