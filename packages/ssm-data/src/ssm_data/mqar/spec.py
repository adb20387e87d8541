"""What the associative recall task says about itself."""

from __future__ import annotations

from pathlib import Path

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import Paper, TaskSpec


@config
class MQARConfig:
    """Knobs of multi-query associative recall; by default the smallest of the published settings.

    Attributes:
        length: Tokens of a row, an even number of at least 4 pairs.
        pairs: Pairs K of a key and a value at the start of a row, each of which is asked for once.
        vocabulary: Number of ids V: 0 is blank, the lower half are keys, the upper half values.
        power: How soon keys are asked for: slot i of the second part is taken with probability ~ i^(power - 1).
            1 makes all slots as likely; the published 0.01 prefers early ones.
        n_train: Training rows.
        n_validation: Validation rows.
        n_test: Test rows.
        seed: Seed of the data; each split draws from a stream of its own.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    length: int = 64
    pairs: int = 4
    vocabulary: int = 8192
    power: float = 0.01
    n_train: int = 100_000
    n_validation: int = 3000
    n_test: int = 3000
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a knob is out of its range.
        """
        if self.pairs < 1:
            raise ValueError(f"pairs = {self.pairs}: at least one is needed")
        if self.length % 2 or self.length < 4 * self.pairs:
            raise ValueError(
                f"length = {self.length} has to be even and at least 4 * pairs = {4 * self.pairs}: "
                "2 tokens a pair, and 2 to ask for it"
            )
        if self.keys < self.pairs:
            raise ValueError(
                f"vocabulary = {self.vocabulary} has {max(self.keys, 0)} keys, fewer than pairs = {self.pairs}"
            )
        if self.power <= 0:
            raise ValueError(f"power = {self.power} has to be above 0")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")
        for name in ("n_train", "n_validation", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a split needs at least one row")

    @property
    def keys(self) -> int:
        """Number of ids that are keys: 1 .. V / 2 - 1."""
        return self.vocabulary // 2 - 1


SPEC = TaskSpec(
    api=1,
    name="mqar",
    summary="multi-query associative recall: after pairs of keys and values, the value of each key asked for",
    config=MQARConfig,
    build="ssm_data.mqar.task:build",
    paper=Paper(
        title="Zoology: Measuring and Improving Recall in Efficient Language Models",
        authors=(
            "Arora, Simran and Eyuboglu, Sabri and Timalsina, Aman and Johnson, Isys and Poli, Michael and "
            "Zou, James and Rudra, Atri and Ré, Christopher"
        ),
        year=2023,
        arxiv="2312.04927",
        bibtex="""@article{arora2023zoology,
  title={Zoology: Measuring and Improving Recall in Efficient Language Models},
  author={Arora, Simran and Eyuboglu, Sabri and Timalsina, Aman and Johnson, Isys and Poli, Michael and Zou, James and
    Rudra, Atri and R{\\'e}, Christopher},
  journal={arXiv preprint arXiv:2312.04927},
  year={2023}
}""",
    ),
)
