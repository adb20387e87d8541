"""What S6 (Mamba) is called and can do; loads no torch."""

from __future__ import annotations

import math
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class S6Config:
    """S6, the selective state-space model, in the block of Mamba.

    Attributes:
        expand: Inner width D as a multiple of the model's width, of which a fraction has to make a whole number.
        state_size: States N of each channel; with complex eigenvalues conjugate symmetry stores half of them.
        conv_width: Taps W of the causal convolution before the scan.
        dt_rank: Width R through which the steps are computed; auto is a sixteenth of the model's width, rounded up.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        dt_floor: No initial step is below it.
        dt_init: Start of the map from R values to the steps: uniform within dt_scale / sqrt(R), or constant there.
        dt_scale: Factor on that start.
        dt_lr_scale: Factor on the learning rate of the map to the steps and its bias.
        eigenvalues: Real, starting at -1, ..., -N, or complex, starting at -1/2 + i pi n.
        discretization: How the input enters a step: euler (dt B), as published, or zoh or bilinear.
        bias: Whether the maps into and out of the block have biases.
        conv_bias: Whether the convolution has a bias.
        rescale_out: Divide the start of the map out of the block by the square root of the number of layers.
    """

    expand: int | float = 2
    state_size: int = 16
    conv_width: int = 4
    dt_rank: Literal["auto"] | int = "auto"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_floor: float = 1e-4
    dt_init: Literal["random", "constant"] = "random"
    dt_scale: float = 1.0
    dt_lr_scale: float = 1.0
    eigenvalues: Literal["real", "complex"] = "real"
    discretization: Literal["euler", "zoh", "bilinear"] = "euler"
    bias: bool = False
    conv_bias: bool = True
    rescale_out: bool = True

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.expand <= 0 or min(self.state_size, self.conv_width) < 1:
            raise ValueError("expand must be above 0, state_size and conv_width at least 1")
        if self.dt_rank != "auto" and self.dt_rank < 1:
            raise ValueError("dt_rank must be auto, or at least 1")
        if not 0 < self.dt_min <= self.dt_max or self.dt_floor < 0:
            raise ValueError("0 < dt_min <= dt_max and 0 <= dt_floor must hold")
        if self.dt_scale <= 0 or self.dt_lr_scale <= 0:
            raise ValueError("dt_scale and dt_lr_scale must be above 0")
        if self.eigenvalues == "complex" and self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} must be even with complex eigenvalues: they come in pairs"
            )

    def inner(self, d_model: int) -> int:
        """Return D for a model's width.

        Raises:
            ValueError: If it is not a whole number.
        """
        width = self.expand * d_model
        if width != int(width):
            raise ValueError(
                f"s6: expand {self.expand} times the width {d_model} is {width:g}, not a whole number: --set "
                "backbone.expand or model.d_model"
            )
        return int(width)

    def rank(self, width: int) -> int:
        """Return R for an inner width D."""
        return math.ceil(width / self.expand / 16) if self.dt_rank == "auto" else self.dt_rank


SPEC = BackboneSpec(
    api=1,
    name="s6",
    summary="Mamba: a selective diagonal state-space model a channel, by scan; takes irregular time steps",
    config=S6Config,
    build="ssm_core.backbones.s6.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        authors="Gu, Albert and Dao, Tri",
        year=2024,
        arxiv="2312.00752",
        bibtex="""@inproceedings{gu2024mamba,
  title={Mamba: Linear-Time Sequence Modeling with Selective State Spaces},
  author={Gu, Albert and Dao, Tri},
  booktitle={First Conference on Language Modeling},
  year={2024}
}""",
    ),
)
