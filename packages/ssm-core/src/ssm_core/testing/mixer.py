"""The conformance suite of mixers: everything the contract promises, for whatever a mixer claims."""

from __future__ import annotations

from ssm_core.testing.checks.claims import Claims
from ssm_core.testing.checks.masks import Masks
from ssm_core.testing.checks.numbers import Numbers
from ssm_core.testing.checks.storage import Storage
from ssm_core.testing.checks.streaming import Streaming
from ssm_core.testing.checks.time import Time


class MixerSuite(Claims, Streaming, Time, Masks, Numbers, Storage):
    """Checks a backbone, or any mixer, against :class:`ssm_core.protocols.Mixer`.

    A registered backbone is named::

        class TestMine(MixerSuite):
            backbone = "mine"
            config = {"state_size": 4}

    One that is not registered is built, and says what it can::

        class TestMine(MixerSuite):
            capabilities = Capabilities(dt=True)

            def make(self, width, causal):
                return Mine(width)

    What is claimed is checked, what is denied is skipped, and denied arguments have to raise. The knobs are those of
    :class:`ssm_core.testing.subject.Subject`; mixers that have a step of their own may override :meth:`rescaled`.
    """
