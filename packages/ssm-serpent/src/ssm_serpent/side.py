"""Which part of the tensors beside x a branch gets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssm_core.protocols import Side


def side_of(
    side: Side | None, branch: int, branches: int, inner: Any, d_model: int
) -> dict[str, Tensor] | None:
    """Return what goes beside x into a branch.

    A mixer says in ``side_widths`` how wide it wants each tensor. What is as wide already is common to all branches
    (Mamba-2's B and C); what is n times as wide belongs to them in turn (its steps, one a head). Where a mixer does not
    say, what is as wide as x is divided as x is, and anything else is common.

    Args:
        side: What came beside x (B, L, ...) or (B, ...), by name.
        branch: Number of the branch, from 0.
        branches: Number n of all of them.
        inner: The branch's mixer.
        d_model: Width H of x before it was divided.

    Raises:
        ValueError: If a width is neither.
    """
    if not side:
        return None
    wanted = getattr(inner, "side_widths", None) or {}
    given: dict[str, Tensor] = {}
    for name, value in side.items():
        width = value.shape[-1]
        want = wanted.get(name, inner.d_model if width == d_model else width)
        if width == want:
            given[name] = value
        elif width == branches * want:
            given[name] = value[..., branch * want : (branch + 1) * want]
        else:
            raise ValueError(
                f"serpent: '{name}' beside x has width {width}, and each of the {branches} branches wants {want}: the "
                f"same, or {branches} times that; --set addons.serpent.expand=1, or another number of branches"
            )
    return given
