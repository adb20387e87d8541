"""Rows of unequal length, for mixers whose computation knows neither masks nor resets.

`over_valid` moves the valid elements of every row to its front (each sequence that a reset begins becomes a row of its
own), hands on the gaps of the masked ones, runs the mixer's own computation on them, and moves the results back. What
the computation has to know is only how many elements of each row count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.gaps import check_shapes, effective_gaps
from ssm_core.protocols import State


class Core(Protocol):
    """A mixer's own computation on rows whose valid elements come first."""

    def __call__(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Mix rows.

        Args:
            x_bld: Input (B, L, D), zero behind each row's end.
            gaps_bl: Gap before each element (B, L), zero behind the end. None is 1 everywhere; if there are
                lengths, it means that the mixer takes no gaps.
            lengths_b: Number of elements that count (B,), 0 included; None if all do.
            state: State to go on from, or None.
            beside: Tensors (B, L, ...) sampled with x, by name.

        Returns:
            Output (B, L, D), with anything behind the end, and the state after each row's last element that counts.
        """
        ...


@dataclass(frozen=True)
class _Rows:
    """Where the elements stand once they are rows (R, M) of valid ones, and back.

    Attributes:
        take: Flat index b L + l of each place (R, M), anything where the place is empty.
        lengths: Number of valid elements of each row (R,).
        back: Flat index r M + m of each element (B, L), anything where it is masked.
        first: The row that each batch row's first sequence became (B,); None if rows are batch rows.
        last: The same of its last sequence.
    """

    take: Tensor
    lengths: Tensor
    back: Tensor
    first: Tensor | None = None
    last: Tensor | None = None

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, ...) as (R, M, ...), zeros in empty places."""
        rows = x.flatten(0, 1)[self.take]
        empty = torch.arange(rows.shape[1], device=x.device) >= self.lengths[:, None]
        return torch.where(empty.reshape(empty.shape + (1,) * (rows.ndim - 2)), torch.zeros_like(rows), rows)

    def unpack(self, y: Tensor, mask_bl: Tensor) -> Tensor:
        """(R, M, ...) as (B, L, ...), zeros where masked."""
        out = y.flatten(0, 1)[self.back]
        return torch.where(mask_bl.reshape(mask_bl.shape + (1,) * (out.ndim - 2)), out, torch.zeros_like(out))


def _front(mask_bl: Tensor) -> _Rows:
    """Valid elements to the front of their own row; no shape depends on the mask's values."""
    batch, length = mask_bl.shape
    order = torch.argsort(~mask_bl, dim=1, stable=True)
    offset = length * torch.arange(batch, device=mask_bl.device)[:, None]
    return _Rows(order + offset, mask_bl.sum(1), torch.argsort(order, dim=1) + offset)


def _apart(mask_bl: Tensor, reset_bl: Tensor) -> _Rows:
    """One row for each sequence that a reset begins; how many there are is read from the device."""
    batch, length = mask_bl.shape
    begins = reset_bl.clone()
    begins[:, 0] = True  # a batch row's first sequence, reset or not, is its first row
    row = begins.flatten().long().cumsum(0) - 1
    valid = mask_bl.flatten()
    lengths = torch.zeros(int(row[-1]) + 1, dtype=torch.long, device=row.device)
    lengths.index_add_(0, row, valid.long())
    widest = max(int(lengths.max()), 1)
    rank = valid.long().cumsum(0) - 1
    place = rank - (lengths.cumsum(0) - lengths)[row]
    back = torch.where(valid, row * widest + place, 0)
    take = torch.zeros(len(lengths) * widest, dtype=torch.long, device=row.device)
    take[back[valid]] = torch.arange(batch * length, device=row.device)[valid]
    row = row.view(batch, length)
    return _Rows(take.view(-1, widest), lengths, back.view(batch, length), row[:, 0], row[:, -1])


def over_valid(
    core: Core,
    x_bld: Tensor,
    *,
    dt_bl: Tensor | None = None,
    mask_bl: Tensor | None = None,
    reset_bl: Tensor | None = None,
    state: State | None = None,
    init_state: Callable[[int], State] | None = None,
    takes_dt: bool = False,
    **beside: Tensor | None,
) -> tuple[Tensor, State]:
    """Run a mixer's computation as if masked elements were not there and each reset began a new sequence.

    With ``takes_dt`` a gap left open by masked elements at a row's end is kept in the state, which then has to be a
    dict, as ``gap`` (B,). Masks keep static shapes; with resets the number of rows depends on their values, so that
    those do not compile into one graph.

    Args:
        core: The computation, on rows whose valid elements come first.
        x_bld: Input (B, L, D).
        dt_bl: Gap before each element (B, L), or None.
        mask_bl: True where valid (B, L), or None.
        reset_bl: True where the state is zeroed before the element (B, L), or None.
        state: State to go on from, or None.
        init_state: Makes the state before the first element for a number of rows; None for what carries no state.
        takes_dt: Whether the computation honours gaps.
        beside: Tensors (B, L, ...) sampled with x, by name, or None.

    Returns:
        Output (B, L, D), zero at masked elements, and the state after the last valid element of each row.

    Raises:
        ValueError: If gaps, mask or resets do not have one entry an element.
    """
    check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
    given = {name: value for name, value in beside.items() if value is not None}
    pending, gaps = None, dt_bl
    if takes_dt:
        state, pending, gaps = _gaps(x_bld, dt_bl, mask_bl, reset_bl, state)
    if (mask_bl is None and reset_bl is None) or x_bld.shape[1] == 0:
        y_bld, after = core(x_bld, gaps_bl=gaps, lengths_b=None, state=state, **given)
        open_still = pending is not None and x_bld.shape[1] == 0 and init_state is not None
        return y_bld, {**after, "gap": pending} if open_still else after
    mask = torch.ones_like(reset_bl) if mask_bl is None else mask_bl  # type: ignore[arg-type]
    rows = _front(mask) if reset_bl is None else _apart(mask, reset_bl)
    if rows.first is not None and init_state is not None:
        assert reset_bl is not None
        state = _spread(state, init_state(len(rows.lengths)), rows.first, ~reset_bl[:, 0])
    y, after = core(
        rows.pack(x_bld),
        gaps_bl=None if gaps is None else rows.pack(gaps),
        lengths_b=rows.lengths,
        state=state,
        **{name: rows.pack(value) for name, value in given.items()},
    )
    if rows.last is not None:
        after = _map(lambda leaf: leaf[rows.last], after)
    if pending is not None and mask_bl is not None and init_state is not None:
        after = {**after, "gap": pending}
    return rows.unpack(y, mask), after


def _gaps(
    x_bld: Tensor, dt_bl: Tensor | None, mask_bl: Tensor | None, reset_bl: Tensor | None, state: State | None
) -> tuple[State | None, Tensor | None, Tensor | None]:
    """Return the state without its open gap, the gap that this call leaves open, and each element's gap."""
    before = None
    if isinstance(state, Mapping) and "gap" in state:
        before = state["gap"]
        state = {name: value for name, value in state.items() if name != "gap"}
    if dt_bl is None and before is None and mask_bl is None and reset_bl is None:
        return state, None, None
    wide = torch.promote_types(x_bld.dtype, torch.float32)
    before = x_bld.new_zeros(len(x_bld), dtype=wide) if before is None else before
    dt = before.new_ones(x_bld.shape[:2]) if dt_bl is None else dt_bl.to(before.dtype)
    gaps, pending = effective_gaps(dt, mask_bl, reset_bl, before)
    return state, pending, gaps


def _spread(state: State | None, fresh: State, first: Tensor, keeps: Tensor) -> State:
    """Return the fresh rows with the carried state in each batch row's first one, where it is kept."""
    if state is None:
        return fresh
    if isinstance(fresh, Mapping):
        return {name: _spread(state[name], value, first, keeps) for name, value in fresh.items()}
    if isinstance(fresh, tuple):
        return tuple(_spread(s, f, first, keeps) for s, f in zip(state, fresh, strict=True))
    keeps = keeps.reshape(-1, *(1,) * (state.ndim - 1))
    return fresh.to(state.dtype).index_copy(0, first, torch.where(keeps, state, torch.zeros_like(state)))


def _map(change: Callable[[Tensor], Tensor], state: State) -> Any:
    if isinstance(state, Mapping):
        return {name: _map(change, value) for name, value in state.items()}
    if isinstance(state, tuple):
        return tuple(_map(change, value) for value in state)
    return change(state)


def valid(x_bl: Tensor, lengths_b: Tensor) -> Tensor:
    """Return True at the elements that count (B, L), for any x (B, L, ...)."""
    return torch.arange(x_bl.shape[1], device=x_bl.device) < lengths_b[:, None]


def flip_valid(x_bld: Tensor, lengths_b: Tensor | None) -> Tensor:
    """Reverse time within each row's length, (B, L, ...); what stands behind the end stays there. Its own inverse."""
    if lengths_b is None:
        return x_bld.flip(1)
    time = torch.arange(x_bld.shape[1], device=x_bld.device)
    index = torch.where(time < lengths_b[:, None], lengths_b[:, None] - 1 - time, time)
    return x_bld.gather(1, index.reshape(index.shape + (1,) * (x_bld.ndim - 2)).expand(x_bld.shape))


def gaps_after(gaps_bl: Tensor, lengths_b: Tensor | None) -> Tensor:
    """Return the gap after each element from those before (B, L): the next one's, and 1 after the last."""
    after = F.pad(gaps_bl, (0, 1), value=1.0)[:, 1:]
    if lengths_b is None:
        return after
    time = torch.arange(gaps_bl.shape[1], device=gaps_bl.device)
    after = torch.where(time == lengths_b[:, None] - 1, torch.ones_like(after), after)
    return torch.where(time < lengths_b[:, None], after, torch.zeros_like(after))


def last_inputs(before_bwd: Tensor, x_bld: Tensor, lengths_b: Tensor | None) -> Tensor:
    """Return the last W inputs that count (B, W, D), those from before the call (B, W, D) included."""
    width, joined = before_bwd.shape[1], torch.cat([before_bwd, x_bld.to(before_bwd.dtype)], 1)
    if lengths_b is None:
        return joined[:, joined.shape[1] - width :]
    index = lengths_b[:, None] + torch.arange(width, device=x_bld.device)
    return joined.gather(1, index[..., None].expand(-1, -1, x_bld.shape[2]))
