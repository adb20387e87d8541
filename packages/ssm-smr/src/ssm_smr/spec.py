"""What SMR is called and takes; loads no torch."""

from __future__ import annotations

from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import AddonSpec, Paper


@config
class SMRConfig:
    """State Memory Replay, round the recurrence of any backbone.

    Attributes:
        tau: Length of the memory: the current input and the tau - 1 before it.
        mode: Dense convolution over all channels, or one filter a channel (depthwise).
        bias: Whether the convolution has a bias, and the pointwise map if there is one.
        pointwise: A linear map over the channels between the convolution and the sigmoid.
        gap: Let the gate see the time: the logarithm of the gap before each element is one more input channel of the
            convolution. The model has to be given gaps (task.time = "true"), and the backbone to take them.
        gate: sigmoid is the paper's; none puts the convolution itself in the input's place, u' = conv(u): a control for
            experiments, to tell what the gate does from what the convolution does.
        init: default draws weights as a convolution layer does (gate near 1/2); open starts at a gate of 0.953,
            identity at a factor of exactly 1.
        gate_scale: Factor on the sigmoid; left out it is 1, and 2 with init identity.
        reverse: In a model that looks both ways, shared gives both directions the input scaled by one causal gate;
            mirrored gives the reverse direction a second gate, with weights of its own, that runs from the end.
        layers: Blocks it applies to: "*", "0,2" or a slice such as "1::2".
    """

    tau: int = 4
    mode: Literal["dense", "depthwise"] = "dense"
    bias: bool = True
    pointwise: bool = False
    gap: bool = False
    gate: Literal["sigmoid", "none"] = "sigmoid"
    init: Literal["default", "open", "identity"] = "default"
    gate_scale: float | None = None
    reverse: Literal["shared", "mirrored"] = "shared"
    layers: str = "*"

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.tau < 1:
            raise ValueError("tau must be at least 1: the current input is part of the memory")
        if self.gate_scale is not None and self.gate_scale <= 0:
            raise ValueError("gate_scale must be above 0")
        if self.gate == "none":
            self._check_ungated()
        elif self.init == "open" and not self.bias:
            raise ValueError("init open lives in the bias: it needs bias = true")
        elif self.init == "identity" and self.gate_scale not in (None, 2.0):
            raise ValueError("init identity needs gate_scale = 2, so that zero weights give a factor of 1")

    def _check_ungated(self) -> None:
        if self.init == "open":
            raise ValueError("init open is a start of the sigmoid: with gate = none take default or identity")
        if self.gate_scale is not None:
            raise ValueError("gate_scale is a factor on the sigmoid: leave it out with gate = none")

    @property
    def scale(self) -> float:
        """The factor on the sigmoid."""
        if self.gate_scale is not None:
            return self.gate_scale
        return 2.0 if self.init == "identity" and self.gate == "sigmoid" else 1.0


SPEC = AddonSpec(
    api=1,
    name="smr",
    summary="scales each input of the recurrence by a gate over the last tau inputs",
    config=SMRConfig,
    build="ssm_smr.layer:build",
    slot="ssm",
    paper=Paper(
        title="SMR: State Memory Replay for Long Sequence Modeling",
        authors=(
            "Qi, Biqing and Gao, Junqi and Zhang, Kaiyan and Li, Dong and Liu, Jianxing and Wu, Ligang and Zhou, Bowen"
        ),
        year=2024,
        arxiv="2405.17534",
        bibtex="""@inproceedings{qi2024smr,
  title={{SMR}: State Memory Replay for Long Sequence Modeling},
  author={Qi, Biqing and Gao, Junqi and Zhang, Kaiyan and Li, Dong and Liu, Jianxing and Wu, Ligang and Zhou, Bowen},
  booktitle={Findings of the Association for Computational Linguistics: ACL 2024},
  pages={8102--8116},
  year={2024}
}""",
    ),
)
