"""SeRpEnt keeps every promise of an add-on: causal with state and steps, and looking both ways.

Gradients of what is rounded to ticks are compared with those of the unrounded equations in `test_block_serpent.py`. In
bfloat16 rounding the input moves times by some thousandths: a token in a hundred then reads the point next to its own.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from ssm_core.plugin.spec import Capabilities
from ssm_core.testing import AddonSuite

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class TestFloor(AddonSuite):
    addon = "serpent"
    tolerance = TOLERANCE
    config: ClassVar = {"compression": (0.5,), "window": 3, "basis": 2}
    widths = (2, 4, 6)
    hosts = ("tiny",)
    denies = ("gradcheck", "compile")  # compiling takes as long as all else: with the slow ones
    jumps = 0.02


@pytest.mark.slow
class TestRoundS5(TestFloor):
    hosts = ("tiny", "s5")
    denies = ("gradcheck",)


@pytest.mark.slow
class TestUniformCapped(AddonSuite):
    addon = "serpent"
    tolerance = TOLERANCE
    config: ClassVar = {
        "compression": (0.75, 0.4),
        "bounds": "capped",
        "window": 6,
        "base": False,
        "times": "uniform",
        "split": "slice",
        "grad": "local",
        "train_width": True,
    }
    widths = (2, 4, 6)
    hosts = ("tiny",)
    denies = ("gradcheck",)
    jumps = 0.02
    capabilities: ClassVar = Capabilities(bidirectional=True, dt=False)
