"""Tasks for long-sequence models: data sets, encoders, heads, losses; exact, cached, found by name.

``load(task, split, **knobs)`` gives a data set; :func:`ssm_data.info.info` its sizes and hashes. Nothing heavy is
imported until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_data.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ssm_data.loading import load

    return load


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
