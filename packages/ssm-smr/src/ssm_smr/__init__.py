"""State Memory Replay (SMR): recent inputs decide how much of the current one enters the state-space model.

Importing this loads no torch; using its names does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_smr.ops import smr_gate

__all__ = ["smr_gate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ssm_smr import ops

        return getattr(ops, name)
    raise AttributeError(f"module 'ssm_smr' has no attribute '{name}'")
