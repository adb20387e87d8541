"""What S4D is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class S4DConfig:
    """S4D, the diagonal structured state-space layer.

    Attributes:
        state_size: States N of each channel; conjugate symmetry stores half of them.
        n_ssm: Copies of A and B, which channels share in turn; it has to divide the width. 0 is one for each
            channel.
        start: Start of A and B: HiPPO-LegS without its low-rank term (legs), S4D-Inv, S4D-Lin or S4D-Real.
        b_clip: Largest size of the imaginary part of B's start; none keeps HiPPO-LegS as it is, 2 is the
            original code's.
        discretization: Zero-order hold or bilinear.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        bandlimit: Drop modes that turn faster than this share of the Nyquist frequency; none keeps all.
        rate: Factor on all steps, to run a trained model at another sampling rate.
        backward_start: Where the second direction of a bidirectional layer begins: with the next element, as in the
            original code, or with the same one.
        activation: Channel mixing after the state-space model; full_glu is the original's.
        lr_scale: Factor on the learning rate of A and B, which do not decay.
        lr_scale_dt: Factor on the learning rate of the steps, which do not decay.
        lr_scale_c: Factor on the learning rate of C, which then does not decay; none trains C as any other weight.
    """

    state_size: int = 64
    n_ssm: int = 1
    start: Literal["legs", "inv", "lin", "real"] = "legs"
    b_clip: float | None = None
    discretization: Literal["zoh", "bilinear"] = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    bandlimit: float | None = None
    rate: float = 1.0
    backward_start: Literal["next", "same"] = "next"
    activation: Literal["full_glu", "half_glu1", "half_glu2", "linear", "gelu", "none"] = "full_glu"
    lr_scale: float = 0.25
    lr_scale_dt: float = 1.0
    lr_scale_c: float | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} must be even, for whole conjugate pairs, and above 0"
            )
        if self.n_ssm < 0:
            raise ValueError("n_ssm must be 1 or more, or 0 for one of each channel's own")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        for name in ("b_clip", "bandlimit", "rate", "lr_scale", "lr_scale_dt", "lr_scale_c"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="s4d",
    summary="one diagonal state-space model a channel, by convolution; takes irregular time steps by a scan",
    config=S4DConfig,
    build="ssm_core.backbones.s4d.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="On the Parameterization and Initialization of Diagonal State Space Models",
        authors="Gu, Albert and Gupta, Ankit and Goel, Karan and Ré, Christopher",
        year=2022,
        arxiv="2206.11893",
        bibtex="""@inproceedings{gu2022s4d,
  title={On the Parameterization and Initialization of Diagonal State Space Models},
  author={Gu, Albert and Gupta, Ankit and Goel, Karan and R{\\'e}, Christopher},
  booktitle={Advances in Neural Information Processing Systems},
  volume={35},
  year={2022}
}""",
    ),
)
