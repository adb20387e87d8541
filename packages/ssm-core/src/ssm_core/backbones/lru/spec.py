"""What LRU is called and can do; loads no torch."""

from __future__ import annotations

import math
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class LRUConfig:
    """LRU, the linear recurrent unit.

    Attributes:
        state_size: States N of the layer, all of them stored.
        r_min: Smallest initial modulus of an eigenvalue.
        r_max: Largest initial modulus of an eigenvalue.
        max_phase: Largest initial phase of an eigenvalue.
        activation: Channel mixing after the recurrence; full_glu is the published one.
        lr_scale: Factor on the learning rate of the eigenvalues, gamma and B.
    """

    state_size: int = 128
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    activation: Literal["half_glu1", "half_glu2", "full_glu", "gelu", "none"] = "full_glu"
    lr_scale: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.state_size < 1:
            raise ValueError("state_size must be at least 1")
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError("0 <= r_min < r_max <= 1 must hold: beyond 1 the recurrence grows without bound")
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError("max_phase must be in (0, 2 pi]")
        if self.lr_scale <= 0:
            raise ValueError("lr_scale must be above 0")


SPEC = BackboneSpec(
    api=1,
    name="lru",
    summary="linear recurrent unit: one diagonal recurrence a layer, trained in discrete time, by scan",
    config=LRUConfig,
    build="ssm_core.backbones.lru.layer:build",
    capabilities=Capabilities(causal=True, bidirectional=True, step=True, dt=True, state=True),
    paper=Paper(
        title="Resurrecting Recurrent Neural Networks for Long Sequences",
        authors=(
            "Orvieto, Antonio and Smith, Samuel L. and Gu, Albert and Fernando, Anushan and Gulcehre, Caglar and "
            "Pascanu, Razvan and De, Soham"
        ),
        year=2023,
        arxiv="2303.06349",
        bibtex="""@inproceedings{orvieto2023lru,
  title={Resurrecting Recurrent Neural Networks for Long Sequences},
  author={Orvieto, Antonio and Smith, Samuel L. and Gu, Albert and Fernando, Anushan and Gulcehre, Caglar and
    Pascanu, Razvan and De, Soham},
  booktitle={International Conference on Machine Learning},
  year={2023}
}""",
    ),
)
