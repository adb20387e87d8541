"""What the bench of feeding is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class FeedingConfig:
    """Batches of tasks' default recipes, as training reads them, and the share of training steps spent waiting.

    Attributes:
        tasks: Tasks, or files of a run's settings (``.toml``), separated by commas; empty is every task that has a
            recipe called default.
        workers: Numbers of workers to compare, separated by commas; 0 reads in the training process.
        seconds: Seconds that batches are read in a round.
        repeats: Rounds; the numbers of workers take turns within each.
        share: Tasks whose training steps are watched as well, separated by commas; those not among tasks are not.
        backbones: Backbones whose default recipe is trained for that, separated by commas.
        steps: Training steps that are watched; the start of the workers is among what the first one waits for.
        threads: CPU threads; 0 is torch's own choice.
    """

    tasks: str = ""
    workers: str = "0,2"
    seconds: float = 1.0
    repeats: int = 3
    share: str = "pendulum,lra-listops,text-lm"
    backbones: str = "s5,s6"
    steps: int = 50
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.seconds <= 0 or min(self.repeats, self.steps) < 1 or self.threads < 0:
            raise ValueError("seconds must be above 0, repeats and steps at least 1, threads at least 0")
        if not self.listed("workers") or not all(part.isdigit() for part in self.listed("workers")):
            raise ValueError(
                f"workers is {self.workers!r}; whole numbers separated by commas are wanted, as in 0,2"
            )

    def listed(self, knob: str) -> list[str]:
        """Return what a knob lists, each once."""
        parts = (part.strip() for part in getattr(self, knob).split(","))
        return list(dict.fromkeys(part for part in parts if part))


SPEC = BenchSpec(
    api=1,
    name="feeding",
    summary="batches a second of every task with workers and without, and the share of a training step spent waiting",
    config=FeedingConfig,
    build="ssm_train.bench.measure:measure",
)
