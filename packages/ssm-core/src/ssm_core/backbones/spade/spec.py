"""What SPADE is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class SpadeConfig:
    """SPADE: local attention and a feed-forward network a layer; the first layer also has a state-space model.

    Attributes:
        window: Attend only to elements at a distance below this; the original code's local_radius + 1.
        heads: Attention heads; left out, one for every 64 channels, and at least one.
        relative: Add T5's learned biases by distance to the attention's scores; without them only the state-space model
            and the causal mask know the order.
        buckets: Number of these biases a head.
        max_distance: Distance from which on they are all one.
        every: Layers 0, every, 2 every, ... have the state-space model; the original's 100 makes it the first alone.
        combine: What becomes of the two: one linear map of both, normed (concat), their weighted sum, normed (add), or
            attention over what the state-space model gives (stack).
        weight: Share of the state-space model in the sum.
        global_branch: The state-space model: S4 as in the original, or the diagonal S4D.
        state_size: Its states N of each channel.
        n_ssm: Its copies of A and B, which channels share in turn; 0 is one for each channel.
        dt_min: Its smallest initial step.
        dt_max: Its largest initial step.
        lr_scale: Factor on the learning rate of its A and B.
        lr_scale_dt: Factor on the learning rate of its steps.
        ffn_width: Width inside the feed-forward network; left out, 4 d_model.
        activation: Its activation.
        dropout_attention: Rate at which attention weights are dropped.
        dropout_hidden: Dropout rate inside the feed-forward network; left out, the model's.
    """

    window: int = 128
    heads: int | None = None
    relative: bool = True
    buckets: int = 32
    max_distance: int = 128
    every: int = 100
    combine: Literal["concat", "add", "stack"] = "concat"
    weight: float = 0.5
    global_branch: Literal["s4", "s4d"] = "s4"
    state_size: int = 64
    n_ssm: int = 1
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    lr_scale: float = 0.25
    lr_scale_dt: float = 1.0
    ffn_width: int | None = None
    activation: Literal["gelu", "gelu_tanh", "silu", "relu"] = "relu"
    dropout_attention: float = 0.0
    dropout_hidden: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges; those of the state-space model are checked by its own config."""
        for name in ("window", "heads", "every", "ffn_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.buckets < 2 or self.buckets % 2:
            raise ValueError("buckets must be even, for the two directions, and above 0")
        if self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"max_distance must be above buckets / 2 = {self.buckets // 2}, the distances that have a bucket each"
            )
        if not 0 <= self.weight <= 1:
            raise ValueError("weight must be in [0, 1]")
        if not (0 <= self.dropout_attention < 1 and 0 <= (self.dropout_hidden or 0) < 1):
            raise ValueError("dropout_attention and dropout_hidden must be in [0, 1)")
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} must be even, for whole conjugate pairs, and above 0"
            )
        if self.n_ssm < 0:
            raise ValueError("n_ssm must be 1 or more, or 0 for one of each channel's own")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError("0 < dt_min <= dt_max must hold")
        if self.lr_scale <= 0 or self.lr_scale_dt <= 0:
            raise ValueError("lr_scale and lr_scale_dt must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="spade",
    summary="local attention in every layer, and one global state-space model beside it in the first",
    config=SpadeConfig,
    build="ssm_core.backbones.spade.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=False, state=True),
    paper=Paper(
        title="Efficient Long Sequence Modeling via State Space Augmented Transformer",
        authors=(
            "Zuo, Simiao and Liu, Xiaodong and Jiao, Jian and Charles, Denis and Manavoglu, Eren and Zhao, Tuo and "
            "Gao, Jianfeng"
        ),
        year=2022,
        arxiv="2212.08136",
        bibtex="""@article{zuo2022spade,
  title={Efficient Long Sequence Modeling via State Space Augmented Transformer},
  author={Zuo, Simiao and Liu, Xiaodong and Jiao, Jian and Charles, Denis and Manavoglu, Eren and Zhao, Tuo and
          Gao, Jianfeng},
  journal={arXiv preprint arXiv:2212.08136},
  year={2022}
}""",
    ),
)
