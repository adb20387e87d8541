"""What the Transformer is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class TransformerConfig:
    """Transformer: attention, then a feed-forward network, each with its norm and its skip connection.

    Attributes:
        heads: Attention heads; left out, one for every 64 channels, and at least one.
        window: Attend only to elements at a distance below this, so that time and state stop growing with the length;
            left out, to everything.
        positions: How elements know their order: turned queries and keys (rotary), or vectors added before the first
            layer, fixed (sinusoid) or learned (needs a known max_length); none leaves it to the causal mask.
        rotary_base: Base of the rotary wavelengths.
        ffn_width: Width inside the feed-forward network; left out, 4 d_model.
        activation: Its activation.
        bias: The attention's linear maps have biases.
        dropout_attention: Rate at which attention weights are dropped.
        dropout_hidden: Dropout rate inside the feed-forward network; left out, the model's.
    """

    heads: int | None = None
    window: int | None = None
    positions: Literal["rotary", "sinusoid", "learned", "none"] = "rotary"
    rotary_base: float = 10000.0
    ffn_width: int | None = None
    activation: Literal["gelu", "gelu_tanh", "silu", "relu"] = "gelu"
    bias: bool = True
    dropout_attention: float = 0.0
    dropout_hidden: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("heads", "window", "ffn_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or left out")
        if self.rotary_base <= 1:
            raise ValueError("rotary_base must be above 1")
        if not (0 <= self.dropout_attention < 1 and 0 <= (self.dropout_hidden or 0) < 1):
            raise ValueError("dropout_attention and dropout_hidden must be in [0, 1)")


SPEC = BackboneSpec(
    api=1,
    name="transformer",
    summary="softmax attention with rotary positions and a feed-forward network; over everything or a window",
    config=TransformerConfig,
    build="ssm_core.backbones.transformer.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=False, state=True),
    paper=Paper(
        title="Attention Is All You Need",
        authors=(
            "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
            "Gomez, Aidan N. and Kaiser, {\\L}ukasz and Polosukhin, Illia"
        ),
        year=2017,
        arxiv="1706.03762",
        bibtex="""@inproceedings{vaswani2017attention,
  title={Attention Is All You Need},
  author={Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and
          Gomez, Aidan N. and Kaiser, {\\L}ukasz and Polosukhin, Illia},
  booktitle={Advances in Neural Information Processing Systems},
  volume={30},
  year={2017}
}""",
    ),
)
