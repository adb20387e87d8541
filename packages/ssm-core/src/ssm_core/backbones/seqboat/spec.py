"""What SeqBoat is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class SeqBoatConfig:
    """SeqBoat, sparse modular activation of a gated attention unit on a moving average.

    Attributes:
        ema_dim: Integrators N of each channel's moving average.
        z_dim: Width of queries and keys.
        hidden: Width of values; None is twice the model's width.
        attention: Attention function: relu2 (squared ReLU) or softmax.
        window: Active elements that each active one sees: so many before it, and after it where it looks both ways.
        position: Where position enters: a learned number for each distance in the sequence (simple), the same for each
            distance among active elements (local), or rotations of queries and keys by their place in the sequence
            (rotary).
        max_positions: Distances that the simple bias tells apart, farther ones sharing the last number; none takes the
            task's longest sequence, else 1024.
        temperature: Start of the router's temperature, in units of the root of the model's width (init_temp_scale).
        attention_dropout: Dropout rate on the attention weights.
        hidden_dropout: Dropout rate on the values.
    """

    ema_dim: int = 16
    z_dim: int = 64
    hidden: int | None = None
    attention: Literal["relu2", "softmax"] = "relu2"
    window: int = 128
    position: Literal["simple", "local", "rotary"] = "simple"
    max_positions: int | None = None
    temperature: float = 1.0
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges, and that rotations find pairs."""
        for name in ("ema_dim", "z_dim", "hidden", "window", "max_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")
        if self.position == "rotary" and self.z_dim % 2:
            raise ValueError(f"z_dim {self.z_dim} must be even for position = rotary, which turns pairs")


SPEC = BackboneSpec(
    api=1,
    name="seqboat",
    summary="moving average, and attention on the elements that a learned router activates; takes irregular time steps",
    config=SeqBoatConfig,
    build="ssm_core.backbones.seqboat.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="Sparse Modular Activation for Efficient Sequence Modeling",
        authors="Ren, Liliang and Liu, Yang and Wang, Shuohang and Xu, Yichong and Zhu, Chenguang and "
        "Zhai, ChengXiang",
        year=2023,
        arxiv="2306.11197",
        bibtex="""@inproceedings{ren2023sparse,
  title={Sparse Modular Activation for Efficient Sequence Modeling},
  author={Ren, Liliang and Liu, Yang and Wang, Shuohang and Xu, Yichong and Zhu, Chenguang and
    Zhai, ChengXiang},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}""",
    ),
)
