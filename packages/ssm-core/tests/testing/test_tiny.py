"""The tiny mixer keeps the contract that it stands for."""

from __future__ import annotations

import math
from typing import Any

import torch

from ssm_core.plugin.spec import Capabilities
from ssm_core.testing import MixerSuite, TinyMixer


class TestTiny(MixerSuite):
    capabilities = Capabilities(bidirectional=True, dt=True)

    def make(self, width: int, causal: bool) -> TinyMixer:
        return TinyMixer(width, causal=causal)

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():
            mixer.log_rate += math.log(factor)
        return mixer


class TestTinyWithoutGaps(MixerSuite):
    capabilities = Capabilities(bidirectional=True)

    def make(self, width: int, causal: bool) -> TinyMixer:
        return TinyMixer(width, causal=causal, takes_dt=False)
