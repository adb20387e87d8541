"""S5 keeps the mixer contract, as a whole block and as the bare layer in its slot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ssm_core.testing import MixerSuite

QUICK = {"state_size": 8, "blocks": 2, "dt_min": 0.05, "dt_max": 0.5}


class TestBlock(MixerSuite):
    backbone = "s5"
    config = QUICK


class TestLayer(MixerSuite):
    backbone = "s5"
    config = QUICK | {"discretization": "bilinear", "clip_eigs": True, "step_rescale": 0.8}
    part = "ssm"

    def rescaled(self, mixer: Any, factor: float) -> Any:
        with torch.no_grad():
            mixer.log_step += math.log(factor)
        return mixer


@pytest.mark.slow
class TestEverything(TestLayer):
    config = QUICK
    widths = (1, 2, 5, 16, 33)
    splits_at_resets = ("bidirectional",)
    exhaustive = True
