"""``--set`` of the commands that take the knobs of one plugin, and the flags that a plugin makes of some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssm_core.plugin import registry
from ssm_core.plugin.config import parse_set, to_toml
from ssm_core.plugin.errors import ConfigError, UserError


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


def flags_as_sets(kind: str, args: Sequence[str]) -> list[str]:
    """Write the flags of the plugin that arguments name, ``--KNOB VALUE``, as ``--set``; all else stays as it is.

    They go to the front, so that a ``--set`` of the same knob is stronger.

    Raises:
        UserError: If a flag stands without a value, or the plugin is broken.
    """
    names = {name for entry in registry.found(kind) for name in (entry.name, entry.long_name)}
    name = next((word for word in args if word in names), None)
    flags = () if name is None else getattr(registry.describe(kind, name)[1], "flags", ())
    sets: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        flag, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or flag not in flags:
            rest.append(word)
            continue
        text = value if given else next(words, None)
        if text is None:
            raise UserError(f"--{flag} of the {kind} '{name}' takes a value", f"write --{flag} VALUE")
        # As TOML text, whatever it looks like; checking the config makes a number of it where the knob is one.
        sets += ["--set", f"{flag}={to_toml(text)}"]
    return [*sets, *rest]
