"""State Memory Replay keeps every promise of an add-on, dense and depthwise."""

from __future__ import annotations

from typing import ClassVar

from ssm_core.testing import AddonSuite


class TestDense(AddonSuite):
    addon = "smr"
    config: ClassVar = {"tau": 3}
    identity: ClassVar = {"tau": 3, "init": "identity"}
    hosts = ("tiny", "s5")


class TestDepthwise(AddonSuite):
    addon = "smr"
    config: ClassVar = {"mode": "depthwise"}
    hosts = ("tiny",)
