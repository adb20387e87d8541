"""Rows of unequal length, for mixers whose computation knows neither masks nor resets.

`over_valid` moves the valid elements of every row to its front (each sequence that a reset begins becomes a row of its
own), hands on the gaps of the masked ones, runs the mixer's own computation on them, and moves the results back. What
the computation has to know is only how many elements of each row count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.gaps import check_shapes, effective_gaps
from ssm_core.protocols import State
from ssm_core.rows import Front, Padded, apart, only_pads, valid


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
    state_grows: bool = False,
    beside: Mapping[str, Tensor | None] | None = None,
) -> tuple[Tensor, State]:
    """Run a mixer's computation as if masked elements were not there and each reset began a new sequence.

    With ``takes_dt`` a gap left open by masked elements at a row's end is kept in the state, which then has to be a
    dict, as ``gap`` (B,). Masks keep static shapes. With resets the computation is run once for each power of two among
    the sequences' lengths, outside of a compiled graph, which breaks there.

    Args:
        core: The computation, on rows whose valid elements come first.
        x_bld: Input (B, L, D).
        dt_bl: Gap before each element (B, L), or None.
        mask_bl: True where valid (B, L), or None.
        reset_bl: True where the state is zeroed before the element (B, L), or None.
        state: State to go on from, or None.
        init_state: Makes the state before the first element for a number of rows; None for what carries no state.
        takes_dt: Whether the computation honours gaps.
        state_grows: The state's shape depends on the length of the rows, so that all sequences have to be rows of one
            call, padded to the longest.
        beside: Tensors (B, L, ...) sampled with x, by name; those that are None are left out.

    Returns:
        Output (B, L, D), zero at masked elements, and the state after the last valid element of each row.

    Raises:
        ValueError: If gaps, mask or resets do not have one entry an element.
    """
    check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
    given = {name: value for name, value in (beside or {}).items() if value is not None}
    pending, gaps = None, dt_bl
    if takes_dt:
        state, pending, gaps = with_open_gap(x_bld, dt_bl, mask_bl, reset_bl, state)
    if (mask_bl is None and reset_bl is None) or x_bld.shape[1] == 0:
        y_bld, after = core(x_bld, gaps_bl=gaps, lengths_b=None, state=state, **given)
        open_still = pending is not None and x_bld.shape[1] == 0 and init_state is not None
        return y_bld, {**after, "gap": pending} if open_still else after
    mask = torch.ones_like(reset_bl) if mask_bl is None else mask_bl  # type: ignore[arg-type]
    if reset_bl is None:
        # Looking at the mask costs a CPU less than moving every element; a GPU would have to be waited for.
        rows = Padded(mask) if mask.device.type == "cpu" and only_pads(mask) else Front(mask)
        y_bld, after = core(
            rows.pack(x_bld),
            gaps_bl=None if gaps is None else rows.pack(gaps),
            lengths_b=rows.lengths,
            state=state,
            **{name: rows.pack(value) for name, value in given.items()},
        )
        y_bld = rows.unpack(y_bld)
    else:
        y_bld, after = _by_group(core, x_bld, mask, reset_bl, gaps, state, init_state, given, state_grows)
    if pending is not None and mask_bl is not None and init_state is not None:
        after = {**after, "gap": pending}
    return y_bld, after


@torch.compiler.disable(
    reason="how many sequences the resets begin, and how long they are, is read from the data"
)
def _by_group(
    core: Core,
    x_bld: Tensor,
    mask: Tensor,
    reset_bl: Tensor,
    gaps: Tensor | None,
    state: State | None,
    init_state: Callable[[int], State] | None,
    beside: Mapping[str, Tensor],
    one_group: bool,
) -> tuple[Tensor, State]:
    """Run the computation on each group of sequences and put what it gives together again."""
    batch, length = x_bld.shape[:2]
    out, after = x_bld.new_zeros(0), None if init_state is not None else ()
    for group in apart(mask, reset_bl, one_group):
        rows = len(group.lengths)
        y, ends = core(
            group.pack(x_bld),
            gaps_bl=None if gaps is None else group.pack(gaps),
            lengths_b=group.lengths,
            state=None if init_state is None else group.starts(state, init_state(rows)),
            **{name: group.pack(value) for name, value in beside.items()},
        )
        inside = valid(y, group.lengths)
        if not out.numel():
            out = y.new_zeros(batch * length, *y.shape[2:])
        out = out.index_put((group.take[inside],), y[inside])
        if init_state is not None:
            after = group.ends(after, ends, batch)
    return out.unflatten(0, (batch, length)), after


def with_open_gap(
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


def flip_valid(x_bld: Tensor, lengths_b: Tensor | None) -> Tensor:
    """Reverse time within each row's length, (B, L, ...); what stands behind the end stays there. Its own inverse."""
    if lengths_b is None:
        return x_bld.flip(1)
    time = torch.arange(x_bld.shape[1], device=x_bld.device)
    index = torch.where(time < lengths_b[:, None], lengths_b[:, None] - 1 - time, time)
    return x_bld.gather(1, index.reshape(index.shape + (1,) * (x_bld.ndim - 2)).expand(x_bld.shape))


def gaps_after(gaps_bl: Tensor, lengths_b: Tensor | None, sequence_bl: Tensor | None = None) -> Tensor:
    """Return the gap after each element from those before: the next one's, and 1 after the last of a sequence.

    Args:
        gaps_bl: Gap before each element (B, L), those that count first.
        lengths_b: Number of elements that count (B,); None if all do.
        sequence_bl: The sequence that each belongs to (B, L), a number that changes where one ends; None if each row
            is one.

    Returns:
        Gaps (B, L), zero behind a row's end.
    """
    after = F.pad(gaps_bl, (0, 1), value=1.0)[:, 1:]
    if sequence_bl is not None:
        goes_on = F.pad(sequence_bl[:, 1:] == sequence_bl[:, :-1], (0, 1))[:, : after.shape[1]]
        after = torch.where(goes_on, after, torch.ones_like(after))
    if lengths_b is None:
        return after
    time = torch.arange(gaps_bl.shape[1], device=gaps_bl.device)
    after = torch.where(time == lengths_b[:, None] - 1, torch.ones_like(after), after)
    return torch.where(time < lengths_b[:, None], after, torch.zeros_like(after))


def last_inputs(before_bwd: Tensor, x_bld: Tensor, lengths_b: Tensor | None) -> Tensor:
    """Return the last W inputs that count (B, W, D), those from before the call (B, W, D) included."""
    width, length = before_bwd.shape[1], x_bld.shape[1]
    if lengths_b is None or length == 0 or width == 0:
        kept = min(length, width)
        return torch.cat([before_bwd[:, kept:], x_bld[:, length - kept :].to(before_bwd.dtype)], 1)
    # Places in x; below zero, they count back from the end of what came before.
    place = lengths_b[:, None] + torch.arange(-width, 0, device=x_bld.device)
    wide = place[..., None].expand(-1, -1, x_bld.shape[2])
    new = x_bld.gather(1, wide.clamp(min=0)).to(before_bwd.dtype)
    return torch.where(wide < 0, before_bwd.gather(1, (wide + width).clamp(max=width - 1)), new)
