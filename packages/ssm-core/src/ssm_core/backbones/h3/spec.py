"""What H3 is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class H3Config:
    """H3, the Hungry Hungry Hippo layer, and its hybrid with attention.

    Attributes:
        state_size: States N of both models: taps of the shift, and states of the diagonal one, of which conjugate
            symmetry stores half.
        head_dim: Width of a head: keys and values of a head meet in an outer product, head_dim^2 numbers of it; it has
            to divide the width.
        start: Start of the diagonal model: S4D-Lin, S4D-Inv, or HiPPO-LegS without its low-rank term (legs).
        discretization: Bilinear or zero-order hold.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        lr_scale: Factor on the learning rate of the eigenvalues, input weights and steps, which do not decay.
        ffn: Width inside the feed-forward half of the block; none is four times the model's width.
        attention_layers: Blocks that attend instead, such as "1,8" or "1::2"; none has no such blocks.
        heads: Attention heads in those blocks; none is one for each 64 channels.
        rotary: Rotary positions in those blocks.
        attention_dropout: Dropout rate on the attention weights.
    """

    state_size: int = 64
    head_dim: int = 1
    start: Literal["lin", "inv", "legs"] = "lin"
    discretization: Literal["bilinear", "zoh"] = "bilinear"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    lr_scale: float = 1.0
    ffn: int | None = None
    attention_layers: str | None = None
    heads: int | None = None
    rotary: bool = False
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} must be even, for whole conjugate pairs, and above 0"
            )
        for name in ("head_dim", "ffn", "heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        if self.lr_scale <= 0:
            raise ValueError("lr_scale must be above 0")
        if not 0 <= self.attention_dropout < 1:
            raise ValueError("attention_dropout must be in [0, 1)")


SPEC = BackboneSpec(
    api=1,
    name="h3",
    summary="q, k, v with a shift and a diagonal state-space model in place of softmax; hybrids with attention",
    config=H3Config,
    build="ssm_core.backbones.h3.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=False, step=True, dt=False, state=True),
    paper=Paper(
        title="Hungry Hungry Hippos: Towards Language Modeling with State Space Models",
        authors="Fu, Daniel Y. and Dao, Tri and Saab, Khaled K. and Thomas, Armin W. and Rudra, Atri and "
        "Ré, Christopher",
        year=2023,
        arxiv="2212.14052",
        bibtex="""@inproceedings{fu2023hungry,
  title={Hungry Hungry Hippos: Towards Language Modeling with State Space Models},
  author={Fu, Daniel Y. and Dao, Tri and Saab, Khaled K. and Thomas, Armin W. and Rudra, Atri and
    R{\\'e}, Christopher},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    ),
)
