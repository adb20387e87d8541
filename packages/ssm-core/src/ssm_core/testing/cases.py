"""Drawn cases: sizes, precision and a seed; and the tensors made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

Dtypes = tuple[torch.dtype, ...]
BOTH: Dtypes = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Case:
    """One drawn case.

    Attributes:
        b: Batch rows.
        l: Length.
        width: Index into the suite's ``widths``.
        seed: Seeds all values.
        dtype: Precision of inputs and parameters.
        dt: Give gaps, where the mixer takes them.
        mask: Mask some elements.
    """

    b: int
    l: int
    width: int
    seed: int
    dtype: torch.dtype
    dt: bool
    mask: bool

    def generator(self) -> torch.Generator:
        """Return a generator of this case's values."""
        return torch.Generator().manual_seed(self.seed)


def cases(dtypes: Dtypes) -> st.SearchStrategy[Case]:
    """Draw cases: short and odd lengths mostly, and some round the block sizes that fast scans like."""
    return st.builds(
        Case,
        b=st.integers(1, 3),
        l=st.one_of(st.integers(1, 19), st.sampled_from((31, 64, 65))),
        width=st.integers(0, 7),
        seed=st.integers(0, 2**16),
        dtype=st.sampled_from(dtypes),
        dt=st.booleans(),
        mask=st.booleans(),
    )


def sweep(examples: int = 10, dtypes: Dtypes = BOTH) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a check ``(self, ..., case)`` to run over drawn cases.

    Args:
        examples: Number of cases under hypothesis' usual profile of 100 examples; others draw in proportion, but half
            as many at least.
        dtypes: Precisions to draw from.
    """
    profile = settings.default
    drawn = max(-(-examples // 2), examples * profile.max_examples // 100) if profile else examples
    # Suites are made to be inherited: the same check running for several classes is no accident.
    unsurprising = [HealthCheck.differing_executors, HealthCheck.too_slow]
    limits = settings(max_examples=drawn, deadline=None, suppress_health_check=unsurprising)
    return lambda check: limits(given(case=cases(dtypes))(check))


@dataclass(frozen=True)
class Inputs:
    """What a mixer is called with.

    Attributes:
        x: Input (B, L, D).
        dt: Gaps (B, L), or None.
        mask: True where valid (B, L), or None.
        reset: True where the state is zeroed first (B, L), or None.
    """

    x: Tensor
    dt: Tensor | None = None
    mask: Tensor | None = None
    reset: Tensor | None = None

    def __getitem__(self, index: Any) -> Inputs:
        """Return some rows, or rows and times: ``inputs[2:3]``, ``inputs[:, 5:]``."""
        rest = (None if value is None else value[index] for value in (self.dt, self.mask, self.reset))
        return Inputs(self.x[index], *rest)

    def padding(self) -> Tensor:
        """Return True at the masked elements that end a row (B, L)."""
        assert self.mask is not None
        return ~self.mask.flip(1).cummax(1).values.flip(1)

    def compacted(self, row: int, takes_dt: bool) -> tuple[Inputs, Tensor]:
        """Return one row (1, L', D) without its masked elements, their gaps handed on, and the gap left at the end."""
        assert self.mask is not None
        given = torch.ones_like(self.x[row, :, 0]) if self.dt is None else self.dt[row]
        keep, gaps, pending = [], [], given.new_zeros(())
        for time, valid in enumerate(self.mask[row].tolist()):
            pending = pending + given[time]
            if valid:
                keep.append(time)
                gaps.append(pending)
                pending = given.new_zeros(())
        dt = torch.stack(gaps)[None] if takes_dt and gaps else None
        return Inputs(self.x[row : row + 1, keep], dt), pending


def draw(
    case: Case,
    width: int,
    *,
    dt: bool = False,
    mask: bool = False,
    reset: bool = False,
    length: int | None = None,
) -> Inputs:
    """Make a case's tensors; equal cases give equal tensors.

    Args:
        case: The case.
        width: D.
        dt: Draw gaps, between 0.1 and 3.
        mask: Draw a mask; whole rows may be masked.
        reset: Draw resets.
        length: Another length than the case's.
    """
    g, shape = case.generator(), (case.b, case.l if length is None else length)
    x = torch.randn(*shape, width, generator=g, dtype=torch.float64).to(case.dtype)
    gaps = (0.1 + 2.9 * torch.rand(shape, generator=g, dtype=torch.float64)).to(case.dtype)
    valid = torch.rand(shape, generator=g) > torch.rand(case.b, 1, generator=g)
    begins = torch.rand(shape, generator=g) < 0.25
    return Inputs(x, gaps if dt else None, valid if mask else None, begins if reset else None)
