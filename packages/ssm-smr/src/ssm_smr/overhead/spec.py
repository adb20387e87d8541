"""What the bench of the gate's overhead is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class OverheadConfig:
    """Training steps of a causal model with SMR beside those without: forward, backward, AdamW, no clipping; float32.

    Attributes:
        backbones: Backbones, separated by commas.
        modes: Modes of the gate, separated by commas: depthwise, dense.
        lengths: Sequence lengths L, separated by commas.
        tau: Inputs that the gate sees.
        width: Width of the model.
        layers: Blocks.
        state: States N, for backbones that have a knob state_size.
        batch: Rows B at each length; 0 keeps the number of elements: B is the longest length divided by L.
        repeats: Timed rounds; contenders take turns within each, and a ratio is of two times of one round.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run.
    """

    backbones: str = "s5,s6"
    modes: str = "depthwise,dense"
    lengths: str = "1024,4096,16384"
    tau: int = 4
    width: int = 256
    layers: int = 4
    state: int = 64
    batch: int = 0
    repeats: int = 9
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.tau, self.width, self.layers, self.state, self.repeats) < 1:
            raise ValueError("tau, width, layers, state and repeats must be at least 1")
        if min(self.batch, self.threads) < 0:
            raise ValueError("batch and threads must be at least 0")
        if not all(part.strip().isdigit() and int(part) for part in self.lengths.split(",")):
            raise ValueError(
                f"lengths is {self.lengths!r}; whole numbers separated by commas are wanted, as in 1024,4096"
            )
        if not set(self.split("modes")) <= {"depthwise", "dense"}:
            raise ValueError(f"modes is {self.modes!r}; depthwise, dense or both with a comma are wanted")
        if not all(self.split("backbones")):
            raise ValueError(
                f"backbones is {self.backbones!r}; names separated by commas are wanted, as in s5,s6"
            )

    def split(self, knob: str) -> list[str]:
        """Return what a knob lists."""
        return [part.strip() for part in getattr(self, knob).split(",")]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Length and rows of each batch, shortest first."""
        lengths = sorted({int(part) for part in self.split("lengths")})
        return [(length, self.batch or max(1, lengths[-1] // length)) for length in lengths]


SPEC = BenchSpec(
    api=1,
    name="smr",
    summary="training steps of a model with SMR beside those without, dense and depthwise, per backbone and length",
    config=OverheadConfig,
    build="ssm_smr.overhead.measure:measure",
)
