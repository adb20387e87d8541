"""State Memory Replay keeps every promise of an add-on, in each of its forms."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from ssm_core.both_ways import BothWays
from ssm_core.plugin.spec import Capabilities
from ssm_core.protocols import Mixer
from ssm_core.testing import AddonSuite, MixerSuite, TinyMixer
from ssm_smr.layer import SMR
from ssm_smr.spec import SMRConfig


class TestDense(AddonSuite):
    addon = "smr"
    config: ClassVar = {"tau": 3}
    identity: ClassVar = {"tau": 3, "init": "identity"}
    hosts = ("tiny", "s5")


class TestDepthwise(AddonSuite):
    addon = "smr"
    config: ClassVar = {"mode": "depthwise"}
    hosts = ("tiny",)


@pytest.mark.slow
class TestPointwise(AddonSuite):
    addon = "smr"
    config: ClassVar = {"mode": "depthwise", "tau": 2, "pointwise": True}
    identity: ClassVar = {"tau": 3, "init": "identity", "pointwise": True}
    hosts = ("tiny",)


@pytest.mark.slow
class TestUngated(AddonSuite):
    addon = "smr"
    config: ClassVar = {"gate": "none", "tau": 3}
    identity: ClassVar = {"gate": "none", "init": "identity", "pointwise": True}
    hosts = ("tiny",)


class TestGap(AddonSuite):
    """A gate that sees the gaps refuses hosts that take none when it is built."""

    addon = "smr"
    config: ClassVar = {"gap": True, "mode": "depthwise", "tau": 3}
    identity: ClassVar = {"gap": True, "init": "identity"}
    hosts = ("tiny",)


class TwoGates(MixerSuite):
    """A second gate that runs from the end, round a mixer that takes an input for the reverse direction."""

    capabilities = Capabilities(causal=False, bidirectional=True, step=False, dt=True, state=False)
    widths = (1, 2, 3)
    knobs: ClassVar[dict[str, Any]] = {}

    def make(self, width: int, causal: bool) -> Mixer:
        config = SMRConfig(reverse="mirrored", tau=3, **self.knobs)
        return SMR(BothWays(TinyMixer(width), TinyMixer(width)), config, self.layer(width, causal))


@pytest.mark.slow
class TestMirrored(TwoGates):
    knobs: ClassVar = {}


class TestMirroredWithGaps(TwoGates):
    knobs: ClassVar = {"gap": True, "mode": "depthwise"}
