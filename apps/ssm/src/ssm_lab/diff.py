"""Where two trees of settings differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ABSENT = "(absent)"
"""Stands for a setting that one side does not have, its plugin not being there."""

RECORDS = ("schema", "plugins")
"""What a resolved configuration notes down beside its settings."""


class Difference(NamedTuple):
    """One setting with its two values."""

    setting: str
    first: Any
    second: Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return the settings in which two resolved configurations differ; the order of add-ons counts as one."""
    a, b = dict(_leaves(first)), dict(_leaves(second))
    found = [
        Difference(path, a.get(path, ABSENT), b.get(path, ABSENT))
        for path in dict.fromkeys([*a, *b])
        if a.get(path, ABSENT) != b.get(path, ABSENT)
    ]
    orders = [list(tree.get("addons", {})) for tree in (first, second)]
    if orders[0] != orders[1]:
        found.insert(0, Difference("addons", *orders))
    return [item for item in found if item.setting.partition(".")[0] not in RECORDS]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
