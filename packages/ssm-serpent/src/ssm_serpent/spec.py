"""What SeRpEnt is called and takes; loads no torch."""

from __future__ import annotations

import math
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import AddonSpec, Paper

TICKS = 1 << 20
"""Ticks in one unit of time; `ssm_serpent.intervals` is not asked, since it loads torch."""


@config
class SerpentConfig:
    """Selective resampling: copies of the sequence, compressed by learned intervals, each with a mixer of its own.

    Attributes:
        compression: kappa of each compressed branch, in (0, 1]: about the share of the tokens that it keeps. Give as
            many as there are to be branches beside the base.
        window: Tokens W that make one point. Every token up to the last point is in some window if W is at least
            1 / lo, rounded up, lo being the smallest interval: kappa with bounds floor, kappa / 4 with capped, the
            interval itself where it is fixed; with cap no W is enough otherwise. In mode nearest it takes one more, and
            tokens of the first half unit of time may be in none.
        basis: Gaussian features G of each token's distance from the point; intervals learn through them alone.
        base: A further branch, the first, on the sequence as it is.
        bounds: Range of the intervals: floor is [kappa, 1], which keeps at least kappa L points of L tokens; cap is
            [0, kappa], which keeps at most that many; capped is [kappa / 4, kappa]. Mode causal rounds these numbers
            down, mode nearest to the nearest, and keeps one point at least.
        start: Mean interval that training starts from, one for each compressed branch, inside its range (1 where
            compression is 1 and bounds is floor); left empty it is the middle of the range.
        fixed: Learn no intervals: every token's is the start value, so that points come at even distances and nothing
            is selected. The control that tells what selection does from what windows and a second branch do.
        mode: causal makes a point of the last tokens before it and lets a token read the last finished point; nearest
            takes those on both sides, so it looks ahead; auto is causal in a causal model, else nearest.
        split: What a branch sees of the width: project maps all of it to the branch's own, slice gives each branch its
            part; auto slices where the slot is wider than the model, since a map of all channels stands before it then
            (as in Mamba), and projects elsewhere.
        expand: Width of each branch's mixer, as a multiple of the branch's share of the width; a map leads back.
        times: Gaps that the mixers of compressed branches see, if they take any: elapsed, the time since the point
            before, or uniform, 1 throughout, as in the paper.
        grad: Gradient of the intervals: full, of all tokens up to a point, or local, of those in its window only.
        train_width: Also learn the widths of the Gaussians.
        layers: Blocks it applies to: "*", "0,2" or a slice such as "1::2".
    """

    compression: tuple[float, ...] = (0.5,)
    window: int = 5
    basis: int = 4
    base: bool = True
    bounds: Literal["floor", "cap", "capped"] = "floor"
    start: tuple[float, ...] = ()
    fixed: bool = False
    mode: Literal["auto", "nearest", "causal"] = "auto"
    split: Literal["auto", "project", "slice"] = "auto"
    expand: float = 1.0
    times: Literal["elapsed", "uniform"] = "elapsed"
    grad: Literal["full", "local"] = "full"
    train_width: bool = False
    layers: str = "*"

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if not self.compression and not self.base:
            raise ValueError("no branch is left: give compression a value, such as [0.5], or set base = true")
        if not all(0 < kappa <= 1 for kappa in self.compression):
            raise ValueError(
                f"compression {list(self.compression)} must be in (0, 1]: it is the share of tokens kept, so a "
                "factor of 4 is 0.25"
            )
        if self.window < 1 or self.basis < 1:
            raise ValueError(
                "window and basis must be at least 1: a point is made of tokens, and intervals learn through the basis"
            )
        if not 0 < self.expand < math.inf:
            raise ValueError("expand must be above 0 and finite; 1 gives each branch its share of the width")
        self._check_start()
        shortest = min((self.branch_range(n)[1] for n in range(len(self.compression))), default=1.0)
        if shortest * TICKS < 1:
            raise ValueError(
                f"compression {list(self.compression)} gives a branch intervals of {shortest:g} at most, below 2^-20, "
                f"about 9.6e-7, the tick in which times are counted: give more (bounds = {self.bounds}, "
                f"fixed = {str(self.fixed).lower()}, start = {list(self.start)})"
            )

    def _check_start(self) -> None:
        if not self.start:
            return
        if len(self.start) != len(self.compression):
            raise ValueError(
                f"start has {len(self.start)} values for {len(self.compression)} compressed branches: give one each, "
                "or none"
            )
        for u0, kappa in zip(self.start, self.compression, strict=True):
            lo, hi = self.interval_range(kappa)
            if not (lo < u0 < hi or lo == u0 == hi):
                raise ValueError(
                    f"start {u0} is outside ({lo:g}, {hi:g}), the intervals of a branch with compression {kappa:g} and "
                    f"bounds = {self.bounds}"
                )

    @property
    def branches(self) -> int:
        """Number of branches n, the base included."""
        return len(self.compression) + self.base

    def interval_range(self, kappa: float) -> tuple[float, float]:
        """Return the smallest and the largest interval of a branch, in units of the grid's spacing."""
        return {"floor": (kappa, 1.0), "cap": (0.0, kappa), "capped": (kappa / 4, kappa)}[self.bounds]

    def branch_range(self, number: int) -> tuple[float, float]:
        """Return the same of a compressed branch as it is built: the start value twice where intervals are fixed."""
        lo, hi = self.interval_range(self.compression[number])
        if not self.fixed:
            return lo, hi
        start = self.start[number] if self.start else (lo + hi) / 2
        return start, start


SPEC = AddonSpec(
    api=1,
    name="serpent",
    summary="runs the mixer on copies of the sequence that learned time intervals compress, and on the sequence itself",
    config=SerpentConfig,
    build="ssm_serpent.build:build",
    slot="mixer",
    paper=Paper(
        title="SeRpEnt: Selective Resampling for Expressive State Space Models",
        authors=(
            "Rando, Stefano and Romani, Luca and Migliarini, Matteo and Franco, Luca and Gudovskiy, Denis and "
            "Galasso, Fabio"
        ),
        year=2025,
        arxiv="2501.11729",
        bibtex="""@article{rando2025serpent,
  title={{SeRpEnt}: Selective Resampling for Expressive State Space Models},
  author={Rando, Stefano and Romani, Luca and Migliarini, Matteo and Franco, Luca and Gudovskiy, Denis and
    Galasso, Fabio},
  journal={arXiv preprint arXiv:2501.11729},
  year={2025}
}""",
    ),
)
