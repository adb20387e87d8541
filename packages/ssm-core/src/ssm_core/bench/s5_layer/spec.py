"""What the S5 bench is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class S5BenchConfig:
    """Forward and backward of one S5 layer.

    Attributes:
        batch: Rows B.
        length: Elements L of a row.
        d_model: Width H.
        state_size: States P; conjugate symmetry stores half.
        repeats: Timed rounds; contenders take turns within each.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run.
    """

    batch: int = 32
    length: int = 1024
    d_model: int = 128
    state_size: int = 128
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.batch, self.length, self.d_model, self.repeats) < 1 or self.threads < 0:
            raise ValueError("batch, length, d_model and repeats must be at least 1, threads at least 0")
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError("state_size must be an even number of at least 2")


SPEC = BenchSpec(
    api=1,
    name="s5-layer",
    summary="forward and backward of one S5 layer, per backend, beside s5-pytorch if it is installed",
    config=S5BenchConfig,
    build="ssm_core.bench.s5_layer.measure:measure",
)
