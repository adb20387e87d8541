"""What Mega is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class MegaConfig:
    """Mega, the moving average equipped gated attention.

    Attributes:
        ema_dim: Integrators N of each channel's moving average.
        z_dim: Width of queries and keys.
        hidden: Width of values; None is twice the model's width.
        ffn: Width inside the feed-forward half of the block; None is the same as hidden.
        attention: Attention function: softmax, laplace or relu2 (squared ReLU).
        chunk_size: Attend within chunks of so many elements only; none attends to all, in memory that grows with L^2.
        position: Position bias: a learned number for each distance (simple), or one made by rotations (rotary).
        max_positions: Distances that the simple bias tells apart, farther ones sharing the last number; none takes
            chunk_size, else the task's longest sequence, else 1024.
        attention_dropout: Dropout rate on the attention weights.
        hidden_dropout: Dropout rate on the values and inside the feed-forward half.
    """

    ema_dim: int = 16
    z_dim: int = 64
    hidden: int | None = None
    ffn: int | None = None
    attention: Literal["softmax", "laplace", "relu2"] = "softmax"
    chunk_size: int | None = None
    position: Literal["simple", "rotary"] = "simple"
    max_positions: int | None = None
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges, and that rotations find pairs."""
        for name in ("ema_dim", "z_dim", "hidden", "ffn", "chunk_size", "max_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")
        if self.position == "rotary" and self.z_dim % 2:
            raise ValueError(f"z_dim {self.z_dim} must be even for position = rotary, which turns pairs")


SPEC = BackboneSpec(
    api=1,
    name="mega",
    summary="damped moving average in a gated one-head attention, whole or in chunks; takes irregular time steps",
    config=MegaConfig,
    build="ssm_core.backbones.mega.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="Mega: Moving Average Equipped Gated Attention",
        authors="Ma, Xuezhe and Zhou, Chunting and Kong, Xiang and He, Junxian and Gui, Liangke and "
        "Neubig, Graham and May, Jonathan and Zettlemoyer, Luke",
        year=2023,
        arxiv="2209.10655",
        bibtex="""@inproceedings{ma2023mega,
  title={Mega: Moving Average Equipped Gated Attention},
  author={Ma, Xuezhe and Zhou, Chunting and Kong, Xiang and He, Junxian and Gui, Liangke and
    Neubig, Graham and May, Jonathan and Zettlemoyer, Luke},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    ),
)
