"""What Liquid-S4 is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class LiquidS4Config:
    """Liquid-S4: S4D with products of inputs, x_k = (A + B u_k) x_{k-1} + B u_k.

    Attributes:
        mode: exact runs that recurrence; kb keeps the products of up to ``order`` inputs; pb does too, but lets those
            of two and more last undamped, as the paper advises: S4D and a few running sums.
        order: Largest number of inputs in a product, in the modes kb and pb; 1 is S4D.
        bound: What keeps the mode exact stable: disc pulls A + B u_k back onto the unit disc where it leaves it, none
            leaves it.
        normalize: In the mode pb, divide the sum over products of p inputs by k^(p/2) after k elements (root), or not.
        state_size: States N of each channel; conjugate symmetry stores half of them, rounded down.
        n_ssm: Copies of A and B, which channels share in turn; it has to divide the width. 0 is one for each
            channel.
        start: Start of A and B: HiPPO-LegS without its low-rank term (legs), S4D-Inv, S4D-Lin or S4D-Real.
        b_clip: Largest size of the imaginary part of B's start; none keeps it as it is.
        discretization: Bilinear or zero-order hold.
        dt_min: Smallest initial step; the paper takes about 1 / length.
        dt_max: Largest initial step.
        activation: Channel mixing after the state-space model; full_glu is the original's.
        lr_scale: Factor on the learning rate of A and B, which do not decay.
        lr_scale_dt: Factor on the learning rate of the steps, which do not decay.
    """

    mode: Literal["pb", "kb", "exact"] = "pb"
    order: int = 2
    bound: Literal["disc", "none"] = "disc"
    normalize: Literal["root", "none"] = "root"
    state_size: int = 64
    n_ssm: int = 1
    start: Literal["legs", "inv", "lin", "real"] = "legs"
    b_clip: float | None = 2.0
    discretization: Literal["bilinear", "zoh"] = "bilinear"
    dt_min: float = 1e-3
    dt_max: float = 2e-1
    activation: Literal["full_glu", "half_glu1", "half_glu2", "linear", "gelu", "none"] = "full_glu"
    lr_scale: float = 0.25
    lr_scale_dt: float = 1.0

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.state_size < 2:
            raise ValueError("state_size must be at least 2: states come in conjugate pairs")
        if self.order < 1:
            raise ValueError("order must be at least 1")
        if self.n_ssm < 0:
            raise ValueError("n_ssm must be 1 or more, or 0 for one of each channel's own")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        if min(self.lr_scale, self.lr_scale_dt) <= 0 or (self.b_clip is not None and self.b_clip <= 0):
            raise ValueError("lr_scale, lr_scale_dt and b_clip must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="liquid_s4",
    summary="Liquid-S4: S4D with products of inputs; takes irregular time steps in the modes exact and kb",
    config=LiquidS4Config,
    build="ssm_core.backbones.liquid_s4.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=False, step=True, dt=True, state=True),
    paper=Paper(
        title="Liquid Structural State-Space Models",
        authors=(
            "Hasani, Ramin and Lechner, Mathias and Wang, Tsun-Hsuan and Chahine, Makram and Amini, Alexander and "
            "Rus, Daniela"
        ),
        year=2023,
        arxiv="2209.12951",
        bibtex="""@inproceedings{hasani2023liquid,
  title={Liquid Structural State-Space Models},
  author={Hasani, Ramin and Lechner, Mathias and Wang, Tsun-Hsuan and Chahine, Makram and Amini, Alexander and
    Rus, Daniela},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    ),
)
