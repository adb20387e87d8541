"""Masks, resets and gaps for recurrences in which a gap of zero leaves the state as it was.

`ssm_core.ragged.over_valid` moves valid elements together. Where no time passes at a masked element, that is not
needed: it stays where it is, with a gap of 0, and the next valid one takes over its gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ssm_core.gaps import check_shapes
from ssm_core.protocols import State
from ssm_core.ragged import over_valid, with_open_gap
from ssm_core.rows import over

Recurrence: TypeAlias = Callable[..., tuple[Tensor, State]]
"""A mixer's own computation ``core(x_bld, *, gaps_bl, state, **beside) -> (y_bld, state)``.

It gets x (B, L, D), zero where masked; the gap before each element (B, L), zero where masked, or None for 1 everywhere;
the state to go on from, or None; tensors sampled with x, by name. It returns y (B, L, D) and the state at the end, a
dict. A gap of 0 leaves its state as it was.
"""


def over_gaps(
    core: Recurrence,
    x_bld: Tensor,
    *,
    dt_bl: Tensor | None = None,
    mask_bl: Tensor | None = None,
    reset_bl: Tensor | None = None,
    state: Any = None,
    init_state: Callable[[int], State],
    beside: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, State]:
    """Run a recurrence as if masked elements were not there and each reset began a new sequence.

    After a call with a mask the state also holds ``gap`` (B,): the time since each row's last valid element. Shapes
    are static unless there are resets: then each sequence becomes a row of its own.

    Args:
        core: The recurrence.
        x_bld: Input (B, L, D).
        dt_bl: Gap before each element (B, L), or None.
        mask_bl: True where valid (B, L), or None.
        reset_bl: True where the state is zeroed before the element (B, L), or None.
        state: State to go on from, a dict, or None.
        init_state: Makes the state before the first element for a number of rows.
        beside: Tensors (B, L, ...) sampled with x, by name.

    Returns:
        Output (B, L, D), with anything at masked elements, and the state after the last valid element of each row.

    Raises:
        ValueError: If gaps, mask or resets do not have one entry an element.
    """
    if reset_bl is not None:
        given = {"dt_bl": dt_bl, "mask_bl": mask_bl, "reset_bl": reset_bl}
        return over_valid(
            _by_rows(core), x_bld, **given, state=state, init_state=init_state, takes_dt=True, beside=beside
        )
    check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl)
    state, pending, gaps = with_open_gap(x_bld, dt_bl, mask_bl, None, state or None)
    tensors = dict(beside or {})
    if mask_bl is not None:
        x_bld = _where(mask_bl, x_bld)
        tensors = {name: _where(mask_bl, value) for name, value in tensors.items()}
    y_bld, after = core(x_bld, gaps_bl=gaps, state=state, **tensors)
    open_still = pending is not None and (mask_bl is not None or x_bld.shape[1] == 0)
    return y_bld, {**after, "gap": pending} if open_still else after


def without_gap(state: Any) -> tuple[Any, Tensor | None]:
    """Return a state without the gap it holds open, and that gap (B,); None for either that is not there."""
    if not state:
        return None, None
    return {name: value for name, value in state.items() if name != "gap"}, state.get("gap")


def next_gap(dt_b: Tensor | None, gap_b: Tensor | None) -> Tensor | None:
    """Return the gap (B,) that the next element sees, a gap left open included; None is 1."""
    if gap_b is None:
        return dt_b
    return gap_b + (1 if dt_b is None else dt_b)


def _by_rows(core: Recurrence) -> Callable[..., tuple[Tensor, State]]:
    def run(
        x_bld: Tensor, *, gaps_bl: Tensor | None, lengths_b: Tensor | None, state: State, **beside: Tensor
    ) -> tuple[Tensor, State]:
        return core(x_bld, gaps_bl=gaps_bl, state=state, **beside)

    return run


def _where(mask_bl: Tensor, x: Tensor) -> Tensor:
    """Zeros at masked elements of (B, L, ...)."""
    return torch.where(over(mask_bl, x), x, torch.zeros_like(x))
