"""Conformance suites: subclass one, name your plugin, and pytest checks everything that it claims.

::

    from ssm_core.testing import MixerSuite

    class TestMine(MixerSuite):
        backbone = "mine"
        config = {"state_size": 4}

The same for add-ons (:class:`AddonSuite`, ``addon = "mine"``) and tasks (:class:`TaskSuite`, ``task = "mine"``). They
need pytest and hypothesis (``uv pip install 'ssm-core[testing]'``). How many cases are drawn follows the hypothesis
profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ssm_core.testing.addon import AddonSuite
    from ssm_core.testing.mixer import MixerSuite
    from ssm_core.testing.task import TaskSuite
    from ssm_core.testing.tiny import TinyMixer

__all__ = ["AddonSuite", "MixerSuite", "TaskSuite", "TinyMixer"]

_HOMES = {"AddonSuite": "addon", "MixerSuite": "mixer", "TaskSuite": "task", "TinyMixer": "tiny"}

# Before the modules below are imported, so that a failing assert in them shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("checks", "mixer", "addon", "task", "subject", "trees"))
)


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
