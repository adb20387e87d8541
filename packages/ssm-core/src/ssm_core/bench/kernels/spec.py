"""What the bench of the operations is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class KernelsConfig:
    """Forward and backward of the operations, float32.

    Attributes:
        only: Time only operations whose name holds this.
        repeats: Timed rounds; contenders take turns within each, those that loop over time three times at most.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run.
        long: Time scans at 4,096 and 65,536 steps too, for their time per element.
    """

    only: str = ""
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"
    long: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.repeats < 1 or self.threads < 0:
            raise ValueError("repeats must be at least 1, threads at least 0")


SPEC = BenchSpec(
    api=1,
    name="kernels",
    summary="forward and backward of every operation, beside transformers, mambapy, s5-pytorch and torch's own",
    config=KernelsConfig,
    build="ssm_core.bench.kernels.measure:measure",
)
