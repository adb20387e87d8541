"""A branch of SeRpEnt without resampling, and what the branches have in common.

A branch gets tokens whose valid ones come first in each row, `lengths_b` of them where that is not all, and gaps that
are zero behind them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssm_core.protocols import Mixer, Side, State
from ssm_core.ragged import valid


class Base(nn.Module):
    """The branch that sees every token.

    Args:
        inner: Its mixer, of width m.
        into: Map from the tokens' width D to m, if there is to be one.
        out: Map from m to the branch's width h, if there is to be one.
    """

    def __init__(self, inner: Mixer, into: nn.Module | None = None, out: nn.Module | None = None) -> None:
        super().__init__()
        self.into = into
        self.inner = inner
        self.out = out

    @property
    def uses_gaps(self) -> bool:
        """Gaps reach the mixer."""
        return True

    @property
    def remembers(self) -> bool:
        """It can go on from a state."""
        return self.inner.causal

    def init_state(self, batch_size: int, **like: Any) -> State:
        """Return the mixer's initial state."""
        return self.inner.init_state(batch_size, **like)

    def forward(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None = None,
        lengths_b: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Mix the tokens (B, L, D) to (B, L, h)."""
        mask = None if lengths_b is None else valid(x_bld, lengths_b)
        x = x_bld if self.into is None else self.into(x_bld)
        y, after = self.inner(x, dt_bl=gaps_bl, mask_bl=mask, side=side, state=state)
        return (y if self.out is None else self.out(y)), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None, side: Side | None, state: State
    ) -> tuple[Tensor, State]:
        """Mix one token (B, D) to (B, h)."""
        x = x_bd if self.into is None else self.into(x_bd)
        y, after = self.inner.step(x, dt_b=dt_b, side=side, state=state)
        return (y if self.out is None else self.out(y)), after
