"""What the bench of the backbones is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class LayersConfig:
    """Training steps of one block of every backbone that is installed, as it comes: forward, backward, AdamW.

    Attributes:
        only: Time only backbones whose name holds this.
        lengths: Sequence lengths L, separated by commas.
        tokens: Elements of a batch: B = tokens / L rows, one at least.
        d_model: Width H.
        state_size: States of the backbones that have this knob; 0 is each one's default.
        repeats: Timed rounds; contenders take turns within each. Those that loop over time run three, up to L = 1024.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run.
    """

    only: str = ""
    lengths: str = "1024,4096"
    tokens: int = 4096
    d_model: int = 256
    state_size: int = 0
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.tokens, self.d_model, self.repeats) < 1 or min(self.threads, self.state_size) < 0:
            raise ValueError(
                "tokens, d_model and repeats must be at least 1, threads and state_size at least 0"
            )
        if not all(part.strip().isdigit() and int(part) for part in self.lengths.split(",")):
            raise ValueError(
                f"lengths is {self.lengths!r}; whole numbers separated by commas are wanted, as in 1024,4096"
            )


SPEC = BenchSpec(
    api=1,
    name="layers",
    summary="training throughput of one block of every backbone, beside transformers' Mamba and s5-pytorch",
    config=LayersConfig,
    build="ssm_core.bench.layers.measure:measure",
)
