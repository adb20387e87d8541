"""What DSS is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class DSSConfig:
    """DSS, the diagonal state space.

    Attributes:
        state_size: Complex states N of each channel. They do not stand for conjugate pairs.
        version: DSS-exp, which has a state and steps, or DSS-softmax, whose kernel depends on the length of the
            sequence, so that it has neither.
        sep_dt_re_im: Separate steps for the real and the imaginary part of the eigenvalues.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        backward_start: Where the second direction of a bidirectional layer begins: with the next element, as in the
            original code, or with the same one.
        activation: Channel mixing after the state-space model; linear is the original's.
        lr_scale: Factor on the learning rate of the eigenvalues and of W, which do not decay.
        lr_scale_dt: Factor on the learning rate of the steps, which do not decay.
    """

    state_size: int = 64
    version: Literal["exp", "softmax"] = "exp"
    sep_dt_re_im: bool = True
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    backward_start: Literal["next", "same"] = "next"
    activation: Literal["full_glu", "half_glu1", "half_glu2", "linear", "gelu", "none"] = "linear"
    lr_scale: float = 0.25
    lr_scale_dt: float = 0.25

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.state_size < 1:
            raise ValueError(f"state_size {self.state_size} must be 1 or more")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        if self.lr_scale <= 0 or self.lr_scale_dt <= 0:
            raise ValueError("lr_scale and lr_scale_dt must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="dss",
    summary="one diagonal state-space model a channel with shared eigenvalues, in the exp or the softmax version",
    config=DSSConfig,
    build="ssm_core.backbones.dss.layer:build",
    # Those of the default version, exp; with softmax a model that has to step or to carry state cannot be built.
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=False, state=True),
    paper=Paper(
        title="Diagonal State Spaces are as Effective as Structured State Spaces",
        authors="Gupta, Ankit and Gu, Albert and Berant, Jonathan",
        year=2022,
        arxiv="2203.14343",
        bibtex="""@inproceedings{gupta2022dss,
  title={Diagonal State Spaces are as Effective as Structured State Spaces},
  author={Gupta, Ankit and Gu, Albert and Berant, Jonathan},
  booktitle={Advances in Neural Information Processing Systems},
  volume={35},
  year={2022}
}""",
    ),
)
