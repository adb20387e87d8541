"""The suite for add-ons, run on a third party's add-on that is found by its entry point."""

from __future__ import annotations

from typing import ClassVar

import pytest
from torch import nn

from ssm_core.compose import Addon
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


class Body(nn.Module):
    """An add-on that keeps what it goes round under a name of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = inner


class AllInner(nn.Module):
    """One whose own weights lie under the name of what it goes round."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList([inner, nn.Linear(2, 2)])


@pytest.mark.parametrize("kind", [Body, AllInner])
def test_an_add_on_whose_weights_could_not_be_told_apart_is_found_out(kind: type[nn.Module]) -> None:
    class Suite(TestScale):
        host = "tiny"

        def active(self, config=None) -> Addon:
            return Addon("kept", "ssm", lambda make, width, layer: kind(make(width)))

    with pytest.raises(AssertionError, match="keeps what it goes round, and nothing else, as 'inner'"):
        Suite().test_what_it_goes_round_is_named_inner()
