"""What S5 is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class S5Config:
    """S5, the simplified state-space layer.

    Attributes:
        state_size: States P of the layer; conjugate symmetry stores half of them.
        blocks: Blocks J of the block-diagonal HiPPO-N start; P / J has to be an even number.
        discretization: Zero-order hold or bilinear.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        c_init: Start of C: LeCun-normal per row (trunc_standard_normal), over the matrix (lecun_normal), both taken
            to the eigenbasis, or complex_normal in the eigenbasis.
        clip_eigs: Keep the real parts of the eigenvalues at or below -1e-4.
        activation: Channel mixing after the state-space model, in the original code's names.
        lr_scale: Factor on the learning rate of what is slow: the eigenvalues, which never decay, and what opt_config
            and dt_global say.
        opt_config: Groups of parameters in the original code's names: standard (B and the steps are slow and do not
            decay, C learns and decays like all others), BandCdecay (B is slow but decays), BfastandCdecay (B as C),
            noBCdecay (C and D as B in standard).
        dt_global: The steps learn and decay like all others.
        step_rescale: Factor on all steps, to run a trained model at another sampling rate.
    """

    state_size: int = 64
    blocks: int = 1
    discretization: Literal["zoh", "bilinear"] = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    c_init: Literal["trunc_standard_normal", "lecun_normal", "complex_normal"] = "lecun_normal"
    clip_eigs: bool = False
    activation: Literal["half_glu1", "half_glu2", "full_glu", "linear", "gelu", "none"] = "half_glu1"
    lr_scale: float = 0.25
    opt_config: Literal["standard", "BandCdecay", "BfastandCdecay", "noBCdecay"] = "standard"
    dt_global: bool = False
    step_rescale: float = 1.0

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.blocks < 1 or self.state_size < 2 or self.state_size % (2 * self.blocks):
            raise ValueError(
                f"state_size {self.state_size} must be a multiple of 2 * blocks = {2 * self.blocks}, so that every "
                "block has whole conjugate pairs"
            )
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        if self.lr_scale <= 0 or self.step_rescale <= 0:
            raise ValueError("lr_scale and step_rescale must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="s5",
    summary="one MIMO diagonal state-space model a layer, by scan; takes irregular time steps",
    config=S5Config,
    build="ssm_core.backbones.s5.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="Simplified State Space Layers for Sequence Modeling",
        authors="Smith, Jimmy T. H. and Warrington, Andrew and Linderman, Scott W.",
        year=2023,
        arxiv="2208.04933",
        bibtex="""@inproceedings{smith2023s5,
  title={Simplified State Space Layers for Sequence Modeling},
  author={Smith, Jimmy T. H. and Warrington, Andrew and Linderman, Scott W.},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    ),
)
