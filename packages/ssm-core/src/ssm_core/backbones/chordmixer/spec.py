"""What ChordMixer is called and can do; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec, Capabilities, Paper


@config
class ChordMixerConfig:
    """ChordMixer: each layer a network on every element, whose channels then move along the sequence in tracks.

    Take ceil(log2 max_length) layers (model.n_layers), so that every element reaches every other.

    Attributes:
        hidden: Width inside the network; left out, as wide as the model.
        max_length: Longest sequence that log2 of it many layers are to cover; it sets the number of tracks,
            ceil(log2 max_length) + 1. Left out, the task's.
        norm_after: A second norm, after the skip connection, besides model.norm before the network.
    """

    hidden: int | None = None
    max_length: int | None = None
    norm_after: Literal["layer", "rms", "batch", "scale", "none"] = "none"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("hidden", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or left out")


SPEC = BackboneSpec(
    api=1,
    name="chordmixer",
    summary="a network on each element, then tracks of channels rotated by powers of two; looks both ways",
    config=ChordMixerConfig,
    build="ssm_core.backbones.chordmixer.layer:build",
    capabilities=Capabilities(causal=False, bidirectional=True, step=False, dt=False, state=False),
    paper=Paper(
        title="ChordMixer: A Scalable Neural Attention Model for Sequences with Different Lengths",
        authors="Khalitov, Ruslan and Yu, Tong and Cheng, Lei and Yang, Zhirong",
        year=2023,
        arxiv="2206.05852",
        bibtex="""@inproceedings{khalitov2023chordmixer,
  title={ChordMixer: A Scalable Neural Attention Model for Sequences with Different Lengths},
  author={Khalitov, Ruslan and Yu, Tong and Cheng, Lei and Yang, Zhirong},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    ),
)
