"""What Mamba-2 is called and can do; loads no torch."""

from __future__ import annotations

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class Mamba2Config:
    """Mamba-2, the state-space dual in the block of Mamba.

    Attributes:
        expand: Inner width D as a multiple of the model's width.
        head_dim: Width P of a head; has to divide D.
        state_size: States N of each of a head's channels.
        groups: Number of B and C vectors an element has, each for as many heads; also the norm's groups.
        conv_width: Taps W of the causal convolution before the scan.
        chunk_size: Elements that are taken in one go: speed and rounding depend on it, nothing else.
        a_min: Smallest initial decay rate.
        a_max: Largest initial decay rate.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        dt_floor: No initial step is below it.
        dt_low: Steps are raised to this, before a gap multiplies them.
        dt_high: Steps are lowered to this, before a gap multiplies them; none is no limit.
        gated_norm: RMS norm of the gated output, before the map out of the block.
        bias: Whether the maps into and out of the block have biases.
        conv_bias: Whether the convolution has a bias.
        rescale_out: Divide the start of the map out of the block by the square root of the number of layers.
    """

    expand: int = 2
    head_dim: int = 64
    state_size: int = 128
    groups: int = 1
    conv_width: int = 4
    chunk_size: int = 64
    a_min: float = 1.0
    a_max: float = 16.0
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_floor: float = 1e-4
    dt_low: float = 0.0
    dt_high: float | None = None
    gated_norm: bool = True
    bias: bool = False
    conv_bias: bool = True
    rescale_out: bool = True

    def __post_init__(self) -> None:
        """Check the ranges; what must divide the width is checked when it is known."""
        for name in ("expand", "head_dim", "state_size", "groups", "conv_width", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 < self.a_min <= self.a_max:
            raise ValueError("0 < a_min <= a_max must hold")
        if not 0 < self.dt_min <= self.dt_max or self.dt_floor < 0:
            raise ValueError("0 < dt_min <= dt_max and 0 <= dt_floor must hold")
        if self.dt_low < 0 or (self.dt_high is not None and self.dt_high <= self.dt_low):
            raise ValueError("0 <= dt_low < dt_high must hold")

    def heads(self, width: int) -> int:
        """Return the number of heads at an inner width D.

        Raises:
            ValueError: If D is no whole number of heads, or the groups do not divide them.
        """
        if width % self.head_dim:
            raise ValueError(
                f"mamba2: the inner width {width} must be a multiple of head_dim {self.head_dim}: "
                "--set backbone.head_dim or model.d_model"
            )
        heads = width // self.head_dim
        if heads % self.groups:
            raise ValueError(
                f"mamba2: groups {self.groups} must divide the {heads} heads of width {width}: "
                "--set backbone.groups or backbone.head_dim"
            )
        return heads


SPEC = BackboneSpec(
    api=1,
    name="mamba2",
    summary="Mamba-2: a selective state-space model a head, by matrix products in chunks; takes irregular time steps",
    config=Mamba2Config,
    build="ssm_core.backbones.mamba2.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title=(
            "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
        ),
        authors="Dao, Tri and Gu, Albert",
        year=2024,
        arxiv="2405.21060",
        bibtex="""@inproceedings{dao2024mamba2,
  title={Transformers are {SSM}s: Generalized Models and Efficient Algorithms Through Structured State Space Duality},
  author={Dao, Tri and Gu, Albert},
  booktitle={International Conference on Machine Learning},
  year={2024}
}""",
    ),
)
