"""Values as the JSON that every reader knows, which has no infinity and no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def json_text(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return a value as indented JSON, with null for each number that is not finite.

    Args:
        value: Plain data.
        default: Gives plain data for what is none, as of :func:`json.dumps`.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False, default=default)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        # A key is text, whatever it was: what is not finite may stand there.
        return {str(key) if isinstance(key, float) else key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
