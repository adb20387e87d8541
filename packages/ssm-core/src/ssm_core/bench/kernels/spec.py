"""What the bench of the operations is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class KernelsConfig:
    """Forward and backward of the operations.

    Attributes:
        only: Time only operations whose name holds this.
        repeats: Timed rounds; contenders take turns within each, those that loop over time three times at most.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run: cpu or cuda.
        sizes: small, which a CPU does in milliseconds, or large, which fill a GPU: Mamba 130M's layer, the Long Range
            Arena's lengths, and a short sequence that shows what launching costs.
        dtype: Of operands and gradients: float32, or bfloat16 of those operations that are real throughout.
        long: Time scans at 4,096 and 65,536 steps too, for their time per element; float32.
    """

    only: str = ""
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"
    sizes: str = "small"
    dtype: str = "float32"
    long: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.repeats < 1 or self.threads < 0:
            raise ValueError("repeats must be at least 1, threads at least 0")
        if self.sizes not in ("small", "large"):
            raise ValueError(f"sizes is {self.sizes!r}; small or large is wanted")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; float32 or bfloat16 is wanted")


SPEC = BenchSpec(
    api=1,
    name="kernels",
    summary="forward and backward of every operation, beside transformers, mambapy, s5-pytorch and torch's own",
    config=KernelsConfig,
    build="ssm_core.bench.kernels.measure:measure",
)
