"""What the bench of the gate is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class GateBenchConfig:
    """Forward and backward of the gate.

    Attributes:
        batch: Rows B.
        length: Elements L of a row.
        width: Channels H.
        tau: Inputs that the gate sees.
        repeats: Timed rounds; contenders take turns within each.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run: cpu or cuda.
        dtype: float32 or bfloat16.
    """

    batch: int = 8
    length: int = 4096
    width: int = 256
    tau: int = 4
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.batch, self.length, self.width, self.tau, self.repeats) < 1 or self.threads < 0:
            raise ValueError("sizes and repeats must be at least 1, threads at least 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; float32 or bfloat16 is wanted")


SPEC = BenchSpec(
    api=1,
    name="smr-gate",
    summary="forward and backward of the gate, depthwise and dense, beside torch's convolution, sigmoid and product",
    config=GateBenchConfig,
    build="ssm_smr.bench.measure:measure",
)
