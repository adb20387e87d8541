"""What the bench of generation is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class GenerationConfig:
    """Stepping one block of every backbone that can step, near two positions of a sequence.

    Attributes:
        only: Time only backbones whose name holds this.
        early: The first position.
        late: The second; what comes before it is run in parallel.
        steps: Steps timed at each position; the two take turns.
        window: Elements that attention sees, of the backbones that have a knob window or chunk_size; 0 is the default.
        batch: Rows B.
        d_model: Width H.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run: cpu or cuda.
        graph: Replay each step as a CUDA graph, so that what is timed is the device's work and not launching it.
        operations: Time the update of the selective scan and that of the convolution alone too, at the sizes of a
            Mamba layer of that width: 2 H channels, 16 states, 4 taps.
    """

    only: str = ""
    early: int = 10
    late: int = 10_000
    steps: int = 200
    window: int = 0
    batch: int = 1
    d_model: int = 256
    threads: int = 0
    device: str = "cpu"
    graph: bool = False
    operations: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.early, self.steps, self.batch, self.d_model) < 1 or min(self.threads, self.window) < 0:
            raise ValueError(
                "early, steps, batch and d_model must be at least 1, threads and window at least 0"
            )
        if self.late <= self.early:
            raise ValueError("late must lie behind early")
        if self.graph and self.device == "cpu":
            raise ValueError("graph needs device=cuda")


SPEC = BenchSpec(
    api=1,
    name="generation",
    summary="time a step and bytes of state, early and late in a sequence, of every backbone that can step",
    config=GenerationConfig,
    build="ssm_core.bench.generation.measure:measure",
)
