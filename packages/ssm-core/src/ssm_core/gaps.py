"""Time bookkeeping shared by mixers that take gaps: masked elements hand their gap to the next valid one."""

from __future__ import annotations

import torch
from torch import Tensor


def check_shapes(
    x_bld: Tensor,
    *,
    dt_bl: Tensor | None = None,
    mask_bl: Tensor | None = None,
    reset_bl: Tensor | None = None,
) -> None:
    """Check that gaps, mask and resets have one entry an element, and that the latter two are boolean.

    They would be stretched to fit otherwise. That gaps are not negative is not looked at: a GPU would have to be
    waited for.

    Raises:
        ValueError: Naming the one that is not so.
    """
    for name, value in (("dt_bl", dt_bl), ("mask_bl", mask_bl), ("reset_bl", reset_bl)):
        if value is None:
            continue
        if value.shape != x_bld.shape[:2]:
            raise ValueError(
                f"{name} is (B, L) = {tuple(x_bld.shape[:2])} like the input, but has shape {tuple(value.shape)}"
            )
        if name != "dt_bl" and value.dtype != torch.bool:
            short = name.removesuffix("_bl")
            raise ValueError(
                f"{name} is boolean, {_WHEN[name]}, but has dtype {value.dtype}: pass {short}.bool()"
            )


_WHEN = {"mask_bl": "True where an element is valid", "reset_bl": "True where a sequence begins"}


def effective_gaps(
    dt_bl: Tensor | None, mask_bl: Tensor | None, reset_bl: Tensor | None, pending_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gap that each valid element sees, and the gap left open at the end of each row.

    Args:
        dt_bl: Gap before each element (B, L); None is 1 everywhere (then a mask is given, for its shape).
        mask_bl: True where an element is valid (B, L); None if all are.
        reset_bl: True where the state is zeroed before an element (B, L): gaps before it are forgotten.
        pending_b: Gap left open by masked elements at the end of what came before (B,).

    Returns:
        gaps (B, L), zero at masked elements, and pending (B,).
    """
    if dt_bl is None:
        assert mask_bl is not None
        dt_bl = pending_b.new_ones(mask_bl.shape)
    if dt_bl.shape[1] == 0:
        return dt_bl, pending_b
    if mask_bl is None:
        first = dt_bl[:, 0] + (pending_b if reset_bl is None else pending_b.masked_fill(reset_bl[:, 0], 0))
        return torch.cat([first[:, None], dt_bl[:, 1:]], 1), torch.zeros_like(pending_b)
    return _merge_masked(dt_bl, mask_bl, reset_bl, pending_b)


def _merge_masked(
    dt_bl: Tensor, mask_bl: Tensor, reset_bl: Tensor | None, pending_b: Tensor
) -> tuple[Tensor, Tensor]:
    # A NaN gap in padding must not spread through the sum below.
    dt_bl = torch.where(mask_bl | dt_bl.isfinite(), dt_bl, torch.zeros_like(dt_bl))
    gaps = torch.cat([pending_b[:, None].to(dt_bl.dtype), dt_bl], 1)  # position 0 holds the pending gap
    valid = torch.cat([torch.zeros_like(mask_bl[:, :1]), mask_bl], 1)
    position = torch.arange(gaps.shape[1], device=gaps.device)
    # Where each element's time starts: at the last valid one before it, or just before the last reset; -1 is "never".
    closed = torch.where(valid, position, -1)
    start = torch.cat([torch.full_like(closed[:, :1], -1), closed[:, :-1]], 1)
    if reset_bl is not None:
        start[:, 1:] = torch.where(reset_bl, torch.maximum(start[:, 1:], position[:-1]), start[:, 1:])
    start = start.cummax(1).values
    # Sums in float64: a difference of long float32 sums would move the gaps.
    elapsed = gaps.double().cumsum(1)
    since_start = (elapsed - _at(elapsed, start)).to(dt_bl.dtype)
    effective = torch.where(start == position - 1, gaps, since_start)[:, 1:]
    end = torch.maximum(start[:, -1:], closed[:, -1:])
    pending = (elapsed[:, -1:] - _at(elapsed, end)).squeeze(1).to(pending_b.dtype)
    return effective.masked_fill(~mask_bl, 0), pending


def _at(elapsed: Tensor, index: Tensor) -> Tensor:
    """Read ``elapsed`` at an index, 0 where the index is -1."""
    return elapsed.gather(1, index.clamp(min=0)).masked_fill(index < 0, 0)
