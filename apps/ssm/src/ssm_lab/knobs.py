"""``--set`` of the commands that take the knobs of one plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssm_core.plugin.config import parse_set
from ssm_core.plugin.errors import ConfigError


def knobs(kind: str, assignments: Sequence[str] | None) -> dict[str, Any]:
    """Return knob -> value; ``kind.knob=value`` is the same as ``knob=value``.

    Raises:
        ConfigError: If an assignment belongs to something else.
    """
    values = parse_set(assignments or ())
    values |= values.pop(kind, {}) if isinstance(values.get(kind), dict) else {}
    nested = [name for name, value in values.items() if isinstance(value, dict)]
    if nested:
        raise ConfigError(
            f"--set takes the knobs of the {kind} here, and '{nested[0]}' is another section",
            f"write --set KNOB=VALUE or --set {kind}.KNOB=VALUE",
        )
    return values
