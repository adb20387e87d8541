"""The suite for add-ons, run on a third party's add-on that is found by its entry point."""

from __future__ import annotations

from typing import ClassVar

import pytest

from ssm_core.plugin.spec import Capabilities
from ssm_core.testing import AddonSuite

pytestmark = pytest.mark.usefixtures("toys")


class TestScale(AddonSuite):
    addon = "toy_scale"
    config: ClassVar = {"factor": 1.5}
    identity: ClassVar = {"factor": 1.0}
    hosts = ("tiny",)
    zero_gap_is_noop = True


@pytest.mark.slow
class TestScaleRoundAll(TestScale):
    hosts = ("tiny", "s5")


class TestMirror(AddonSuite):
    """One that looks ahead and takes no gaps, which leaves little to claim."""

    addon = "toy_mirror"
    hosts = ("tiny",)
    capabilities = Capabilities(causal=False, bidirectional=True, step=False, state=False)
    denies = ("mask", "reset", "compile")
