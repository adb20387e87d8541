"""A compressed branch: points, a mixer on them, and its output handed back to the tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.protocols import Mixer, Side, State
from ssm_serpent.at_points import taken
from ssm_serpent.ops import spread
from ssm_serpent.resampler import Resampler
from ssm_serpent.trees import choose


class Compressed(nn.Module):
    """Eqs. (14a), (14b) and (15a).

    In mode "causal" its state is what the resampler remembers, ``held`` (B, h), the output of the last point, and
    ``inner``, the mixer's state.

    Args:
        resampler: From tokens of width D to points of width m.
        inner: Its mixer, of width m.
        out: Map from m to the branch's width h, if there is to be one.
    """

    def __init__(self, resampler: Resampler, inner: Mixer, out: nn.Linear | None = None) -> None:
        super().__init__()
        self.resampler = resampler
        self.inner = inner
        self.out = out

    @property
    def uses_gaps(self) -> bool:
        """Gaps reach the mixer."""
        return self.resampler.told == "elapsed"

    @property
    def remembers(self) -> bool:
        """It can go on from a state."""
        return self.resampler.mode == "causal" and self.inner.causal

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return empty memory, zeros held and the mixer's initial state; nothing if it looks ahead."""
        if not self.remembers:
            return ()
        start = self._start(batch_size, device, dtype)
        return {**start, "inner": self.inner.init_state(batch_size, device=device, dtype=dtype)}

    def _start(
        self, batch: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> dict[str, Any]:
        start = self.resampler.start(batch, device=device, dtype=dtype)
        width = self.inner.d_model if self.out is None else self.out.out_features
        return {**start, "held": start["u_bw"].new_zeros(batch, width)}

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
        before: dict[str, Any] = state or self._start(len(x_bld), x_bld.device, x_bld.dtype)
        held = before["held"].to(x_bld.dtype)
        if x_bld.shape[1] == 0:
            return held[:, None][:, :0], state or ()
        points, x_bkm, memory = self.resampler(x_bld, gaps_bl, lengths_b, before)
        index = points.index
        # With gaps a mask adds the one left open to the state, whose form must not depend on how many points there are.
        may_drop = not (self.remembers and self.inner.takes_dt) and _free_to_look(x_bld)
        full = may_drop and bool(index.valid_bk.all())
        y_bkm, inner = self.inner(
            x_bkm,
            dt_bl=points.gaps_bk,
            mask_bl=None if full else index.valid_bk,
            side={name: taken(value, points.token_bk) for name, value in (side or {}).items()} or None,
            state=before.get("inner"),
        )
        y_bkh = (y_bkm if self.out is None else self.out(y_bkm)).to(x_bld.dtype)
        y_blh = spread(y_bkh, index.point_bl, before_bh=held)
        if not self.remembers:
            return y_blh, ()
        last = torch.cat([held[:, None], y_bkh], 1).gather(
            1, index.count_b[:, None, None].expand(-1, 1, y_bkh.shape[2])
        )
        return y_blh, {**memory, "held": last[:, 0].to(before["held"].dtype), "inner": inner}

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None, side: Side | None, state: State
    ) -> tuple[Tensor, State]:
        """Take one token (B, D): rows in which it finishes a point step the mixer, the others hold their output.

        Where no row has a point nothing is encoded and the mixer does not step, but only in eager mode on a CPU.
        Elsewhere asking would make the host wait, and what the mixer does is thrown away.
        """
        gaps = None if dt_b is None else dt_b[:, None]
        points, memory = self.resampler.find(x_bd[:, None], gaps, None, state)
        done_b, held = points.index.valid_bk[:, 0], state["held"]
        if _free_to_look(x_bd) and not bool(done_b.any()):
            return held.to(x_bd.dtype), {**memory, "held": held, "inner": state["inner"]}
        dt = points.gaps_bk[:, 0] if points.gaps_bk is not None else None
        y_bm, inner = self._where(done_b, self.resampler.encode(points)[:, 0], dt, side, state["inner"])
        y_bh = (y_bm if self.out is None else self.out(y_bm)).to(held.dtype)
        held = torch.where(done_b[:, None], y_bh, held)
        return held.to(x_bd.dtype), {**memory, "held": held, "inner": inner}

    def _where(
        self, done_b: Tensor, x_bm: Tensor, dt_b: Tensor | None, side: Side | None, state: State
    ) -> tuple[Tensor, State]:
        """Step the mixer in the rows where a point is done."""
        y_bm, after = self.inner.step(x_bm, dt_b=dt_b, side=side, state=state)
        chosen = choose(done_b, after, state)
        if chosen is not None:
            return y_bm, chosen
        # A state that grows with each element, as attention's does, has no rows to choose; masks are what it knows.
        beside = {name: value[:, None] for name, value in (side or {}).items()} or None
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bkm, after = self.inner(
            x_bm[:, None], dt_bl=dt_bl, mask_bl=done_b[:, None], side=beside, state=state
        )
        return y_bkm[:, 0], after


def _free_to_look(x: Tensor) -> bool:
    """Whether reading a value costs nothing: on other devices the host would wait, a graph would break."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
