"""What the bench of resampling is called and takes; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BenchSpec


@config
class SerpentBenchConfig:
    """A block of a base branch and a compressed one, float32, nearest windows.

    Attributes:
        batch: Rows B.
        length: Elements L of a row.
        width: Channels D of the block; each branch gives half of them.
        window: Tokens W that a point is made of.
        basis: Basis functions G of a distance.
        state_size: State size N of the branches' state-space model.
        compression: Smallest interval kappa; random intervals keep about 0.3 + 0.7 kappa of the tokens.
        long: Length of the one row whose time a token is compared; 0 leaves that out.
        direct: Also run the direct reading, which takes about 600 MB at the default size, most of it for its table.
        repeats: Timed rounds; contenders take turns within each, slow ones in three.
        threads: CPU threads; 0 is torch's own choice.
        device: Where to run.
    """

    batch: int = 16
    length: int = 4096
    width: int = 192
    window: int = 6
    basis: int = 4
    state_size: int = 4
    compression: float = 0.25
    long: int = 65536
    direct: bool = True
    repeats: int = 7
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        sizes = self.batch, self.length, self.window, self.basis, self.repeats
        if min(sizes) < 1 or min(self.long, self.threads) < 0:
            raise ValueError("sizes and repeats must be at least 1, long and threads at least 0")
        if self.length < self.window:
            raise ValueError(
                f"length {self.length} is less than window {self.window}: the direct reading takes the W tokens "
                "nearest to each point, so give rows of as many"
            )
        if self.width < 2 or self.width % 2 or self.state_size < 2 or self.state_size % 2:
            raise ValueError("width (two branches) and state_size (conjugate pairs) must be even, at least 2")
        if not 0 < self.compression <= 1:
            raise ValueError("compression must lie in (0, 1]: 1 keeps every token")


SPEC = BenchSpec(
    api=1,
    name="serpent",
    summary="index stage, encoding and a whole block of selective resampling beside a direct reading of the equations",
    config=SerpentBenchConfig,
    build="ssm_serpent.bench.measure:measure",
)
