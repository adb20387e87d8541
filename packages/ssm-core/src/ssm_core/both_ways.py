"""A bidirectional mixer from two causal ones, the second of which runs from the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_core.protocols import Mixer, Side, State
from ssm_core.ragged import flip_valid, gaps_after, over_valid, valid


class BothWays(nn.Module):
    """``forwards(x) + reverse(backwards(reverse(x)))``, each element seen by both.

    The gap that the second direction sees before an element is the one after it in time, and 1 for the last.

    Args:
        forwards: A causal mixer.
        backwards: Another, with parameters of its own.
    """

    causal = False
    streaming = False

    def __init__(self, forwards: Mixer, backwards: Mixer) -> None:
        super().__init__()
        self.forwards = forwards
        self.backwards = backwards

    @property
    def d_model(self) -> int:
        """Width."""
        return self.forwards.d_model

    @property
    def takes_dt(self) -> bool:
        """Whether both honour gaps."""
        return self.forwards.takes_dt and self.backwards.takes_dt

    @property
    def side_widths(self) -> dict[str, int]:
        """Widths of what both directions need beside x, by name."""
        return dict(getattr(self.forwards, "side_widths", {}))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return nothing: what looks ahead carries no state."""
        return ()

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
        x_reverse_bld: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Mix a sequence (B, L, D) both ways; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input (B, L, D).
            dt_bl: Gap before each element (B, L).
            mask_bl: True where valid (B, L).
            reset_bl: True where a new sequence begins (B, L): neither direction crosses from one to the next.
            side: Tensors sampled together with x, for both directions.
            state: Refused.
            x_reverse_bld: Input of the second direction, if it is to differ.
        """
        if state:
            raise ValueError(
                "a bidirectional mixer carries no state: build the model with causal=True to stream"
            )
        if dt_bl is not None and not self.takes_dt:
            raise ValueError(
                f"{type(self.forwards).__name__} takes no gaps (dt_bl): --set task.time=ignored or appended"
            )
        return over_valid(
            self._run,
            x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            takes_dt=self.takes_dt,
            beside={"x_reverse": x_reverse_bld, **(side or {})},
        )

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        x_reverse: Tensor | None = None,
        **side: Tensor,
    ) -> tuple[Tensor, State]:
        mask = None if lengths_b is None else valid(x_bld, lengths_b)
        y_bld, _ = self.forwards(x_bld, dt_bl=gaps_bl, mask_bl=mask, side=side)
        back = flip_valid(x_bld if x_reverse is None else x_reverse, lengths_b)
        gaps = None if gaps_bl is None else flip_valid(gaps_after(gaps_bl, lengths_b), lengths_b)
        flipped = {name: flip_valid(value, lengths_b) for name, value in side.items()}
        y_back, _ = self.backwards(back, dt_bl=gaps, mask_bl=mask, side=flipped)
        return y_bld + flip_valid(y_back, lengths_b), ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Refuse: what looks ahead cannot step."""
        raise ValueError("a bidirectional mixer cannot step: build the model with causal=True")
