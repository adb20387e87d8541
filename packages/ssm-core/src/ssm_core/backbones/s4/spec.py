"""What S4 is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class S4Config:
    """S4, the structured state-space layer with a diagonal-plus-low-rank state matrix.

    Attributes:
        state_size: States N of each channel; conjugate symmetry stores half of them.
        n_ssm: Copies of A, P and B, which channels share in turn; it has to divide the width. 0 is one for each
            channel.
        start: Start of A, P and B: HiPPO-LegS (legs), truncated Fourier (fout), copies of the two in turn (hippo),
            translated Legendre (legt, rank 2), or the starts of S4D with a random low-rank part (diag-*).
        rank: Rank of the low-rank part; 0 is the start's own, and only the diag-* starts take another.
        b_clip: Largest size of the imaginary part of B's start; none keeps HiPPO as it is, 2 is the original code's.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        rate: Factor on all steps, to run a trained model at another sampling rate.
        backward_start: Where the second direction of a bidirectional layer begins: with the next element, as in the
            original code, or with the same one.
        activation: Channel mixing after the state-space model; full_glu is the original's.
        ffn_every: A feed-forward network of four times the width, with GELU, follows every so many layers, as in the
            original's language model; 0 is none.
        lr_scale: Factor on the learning rate of A, P and B, which do not decay.
        lr_scale_dt: Factor on the learning rate of the steps, which do not decay.
        lr_scale_c: Factor on the learning rate of C, which then does not decay; none trains C as any other weight.
    """

    state_size: int = 64
    n_ssm: int = 1
    start: Literal["legs", "fout", "hippo", "legt", "diag-legs", "diag-inv", "diag-lin", "diag-real"] = "legs"
    rank: int = 0
    b_clip: float | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    rate: float = 1.0
    backward_start: Literal["next", "same"] = "next"
    activation: Literal["full_glu", "half_glu1", "half_glu2", "linear", "gelu", "none"] = "full_glu"
    ffn_every: int = 0
    lr_scale: float = 0.25
    lr_scale_dt: float = 1.0
    lr_scale_c: float | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} must be even, for whole conjugate pairs, and above 0"
            )
        if self.ffn_every < 0:
            raise ValueError("ffn_every must be 1 or more, or 0 for none")
        if self.n_ssm < 0:
            raise ValueError("n_ssm must be 1 or more, or 0 for one of each channel's own")
        free = self.start.startswith("diag-")
        if self.rank < 0 or (self.rank not in (0, self.own_rank) and not free):
            raise ValueError(
                f"rank {self.rank} does not suit the start {self.start}, whose rank is {self.own_rank}: leave it at 0; "
                "only the diag-* starts, which draw their low-rank part, take any"
            )
        if self.start == "hippo" and self.n_ssm % 2:
            raise ValueError(
                "start = hippo gives copies of A in turn to legs and fout: n_ssm must be even, or 0"
            )
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        for name in ("b_clip", "rate", "lr_scale", "lr_scale_dt", "lr_scale_c"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0")

    @property
    def own_rank(self) -> int:
        """Rank of the start's low-rank part where ``rank`` is 0."""
        return 2 if self.start == "legt" else 1


SPEC = BackboneSpec(
    api=1,
    name="s4",
    summary="one diagonal-plus-low-rank state-space model a channel, started from HiPPO, by convolution",
    config=S4Config,
    build="ssm_core.backbones.s4.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=False, state=True),
    paper=Paper(
        title="Efficiently Modeling Long Sequences with Structured State Spaces",
        authors="Gu, Albert and Goel, Karan and Ré, Christopher",
        year=2022,
        arxiv="2111.00396",
        bibtex="""@inproceedings{gu2022s4,
  title={Efficiently Modeling Long Sequences with Structured State Spaces},
  author={Gu, Albert and Goel, Karan and R{\\'e}, Christopher},
  booktitle={International Conference on Learning Representations},
  year={2022}
}""",
    ),
)
