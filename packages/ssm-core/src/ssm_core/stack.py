"""N blocks one after the other, their states in one tuple."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import cast

import torch
from torch import Tensor, nn

from ssm_core.norms import make_norm, normalise
from ssm_core.protocols import Block, State


class Stack(nn.Module):
    """Blocks in sequence; with pre-norm, a last norm closes the residual stream.

    Args:
        blocks: The blocks.
        d_model: Width of the residual stream.
        final_norm: Kind of the closing norm; ``none`` after post-norm blocks.
    """

    def __init__(self, blocks: Sequence[Block], d_model: int, final_norm: str = "none") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(cast("Sequence[nn.Module]", blocks))
        self.final_norm = make_norm(final_norm, d_model)
        self.d_model = d_model

    def each(self) -> list[Block]:
        """Return the blocks, typed as what they are."""
        return cast("list[Block]", list(self.blocks))

    @property
    def causal(self) -> bool:
        """Whether every block looks back only."""
        return all(block.causal for block in self.each())

    @property
    def streaming(self) -> bool:
        """Whether every block offers :meth:`step`."""
        return all(block.streaming for block in self.each())

    @property
    def stateful(self) -> bool:
        """Whether state can be carried from call to call: no part of it says ``stateful = False``."""
        return self.causal and all(
            getattr(part, "stateful", True) for part in self.modules() if part is not self
        )

    @property
    def way_out(self) -> str:
        """The knob that would give what is missing, where a mixer names one as its ``way_out``."""
        return next((str(part.way_out) for part in self.blocks.modules() if hasattr(part, "way_out")), "")

    @property
    def takes_dt(self) -> bool:
        """Whether every block honours gaps."""
        return all(block.takes_dt for block in self.each())

    @property
    def wants_dt(self) -> str:
        """The knob that would do without gaps, where a part reads them itself and names one as its ``wants_dt``."""
        named = (str(getattr(part, "wants_dt", "")) for part in self.blocks.modules())
        return next((knob for knob in named if knob), "")

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return the blocks' initial states."""
        return tuple(block.init_state(batch_size, device=device, dtype=dtype) for block in self.each())

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Map (B, L, D) to features (B, L, D) and the blocks' states."""
        states = [None] * len(self.blocks) if state is None else self._checked(state)
        after = []
        for block, before in zip(self.each(), states, strict=True):
            x_bld, new = block(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl, state=before)
            after.append(new)
        return normalise(self.final_norm, x_bld, mask_bl), tuple(after)

    def step(self, x_bd: Tensor, *, dt_b: Tensor | None = None, state: State) -> tuple[Tensor, State]:
        """Map one element (B, D) to its features."""
        after = []
        for block, before in zip(self.each(), self._checked(state), strict=True):
            x_bd, new = block.step(x_bd, dt_b=dt_b, state=before)
            after.append(new)
        return self.final_norm(x_bd), tuple(after)

    def _checked(self, state: State) -> State:
        if not isinstance(state, (tuple, list)) or len(state) != len(self.blocks):
            raise ValueError(
                f"the state of this model is a tuple of {len(self.blocks)}, one for each block, but is {_told(state)}: "
                "pass the one that the last call returned, or that of init_state(batch_size)"
            )
        return state


def _told(state: State) -> str:
    kind = type(state).__name__
    return f"a {kind} of {len(state)}" if isinstance(state, Sized) else f"a {kind}"
