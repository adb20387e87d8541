"""The plainest mixer that keeps the whole contract: a leaky integrator a channel, by a loop over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_core.protocols import Side, State


class TinyMixer(nn.Module):
    """h_t = e^(-r dt_t) h_(t-1) + (1 - e^(-r dt_t)) u_t,  y_t = gain h_t + skip u_t.

    Add-ons and tasks are tested with it, and it is the oracle for how masks, gaps and resets act.

    Args:
        d_model: Width.
        causal: Run forwards only; otherwise a second integrator runs backwards and is added.
        takes_dt: Honour gaps; otherwise refuse them.
    """

    def __init__(self, d_model: int, *, causal: bool = True, takes_dt: bool = True) -> None:
        super().__init__()
        self.d_model = d_model
        self.causal = self.streaming = causal
        self.takes_dt = takes_dt
        self.log_rate = nn.Parameter(torch.linspace(-2.0, 0.5, d_model))
        self.gain = nn.Parameter(torch.linspace(1.0, 2.0, d_model))
        self.gain_back = None if causal else nn.Parameter(torch.linspace(0.5, 1.5, d_model))
        self.skip = nn.Parameter(torch.full((d_model,), 0.1))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"h": (B, D), "gap": (B,)}``, zeros; backwards there is no state to carry."""
        if not self.causal:
            return ()
        like = {"device": device or self.gain.device, "dtype": dtype or self.gain.dtype}
        return {"h": torch.zeros(batch_size, self.d_model, **like), "gap": torch.zeros(batch_size, **like)}

    def forward(
        self,
        x_bld: Tensor,
        *,
        dt_bl: Tensor | None = None,
        mask_bl: Tensor | None = None,
        reset_bl: Tensor | None = None,
        side: Side | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """See :class:`ssm_core.protocols.Mixer`; ``side["scale"]`` (B, L, D) multiplies the input."""
        if state and not self.causal:
            raise ValueError("a bidirectional mixer carries no state")
        if dt_bl is not None and not self.takes_dt:
            raise ValueError("this mixer takes no gaps (dt): --set task.time=ignored or appended")
        for name, given in (("dt_bl", dt_bl), ("mask_bl", mask_bl), ("reset_bl", reset_bl)):
            if given is not None and given.shape != x_bld.shape[:2]:
                raise ValueError(f"{name} has shape {tuple(given.shape)}, not {tuple(x_bld.shape[:2])}")
        if side:
            x_bld = x_bld * side["scale"]
        valid = torch.ones_like(x_bld[..., 0], dtype=torch.bool) if mask_bl is None else mask_bl
        begins = torch.zeros_like(valid) if reset_bl is None else reset_bl
        dt = torch.ones_like(x_bld[..., 0]) if dt_bl is None else dt_bl
        u = torch.where(valid[..., None], x_bld, 0)
        dt = torch.where(valid | dt.isfinite(), dt, 0)
        start = state or {"h": u.new_zeros(len(u), self.d_model), "gap": u.new_zeros(len(u))}
        if not self.takes_dt:
            dt, start = torch.where(valid, dt, 0), {**start, "gap": u.new_zeros(len(u))}
        gaps, pending = _gaps_before(dt, valid, begins, start["gap"])
        h_bld, h = self._integrate(u, gaps, valid, begins, start["h"])
        y_bld = self.gain * h_bld + self.skip * u
        if self.gain_back is None:
            return y_bld.to(x_bld.dtype), {"h": h, "gap": pending}
        after = _gaps_after(gaps, valid, begins).flip(1)
        begins = torch.cat([torch.zeros_like(begins[:, :1]), begins.flip(1)[:, :-1]], 1)
        back, _ = self._integrate(u.flip(1), after, valid.flip(1), begins, torch.zeros_like(start["h"]))
        return (y_bld + self.gain_back * back.flip(1)).to(x_bld.dtype), ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element."""
        if not self.streaming:
            raise ValueError("a bidirectional mixer cannot step")
        side = None if side is None else {name: value[:, None] for name, value in side.items()}
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bld, state = self(x_bd[:, None], dt_bl=dt_bl, side=side, state=state)
        return y_bld[:, 0], state

    def _integrate(
        self, u: Tensor, gaps: Tensor, valid: Tensor, begins: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = []
        decay = torch.exp(-self.log_rate.exp() * gaps[..., None])
        for time in range(u.shape[1]):
            h = torch.where(begins[:, time, None], 0, h)
            moved = decay[:, time] * h + (1 - decay[:, time]) * u[:, time]
            h = torch.where(valid[:, time, None], moved, h)
            out.append(h)
        return torch.stack(out, 1), h


def _gaps_before(dt: Tensor, valid: Tensor, begins: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
    """Return each valid element's gap, masked elements' gaps handed on, and the gap left open."""
    out = []
    for time in range(dt.shape[1]):
        pending = torch.where(begins[:, time], 0, pending) + dt[:, time]
        out.append(torch.where(valid[:, time], pending, 0))
        pending = torch.where(valid[:, time], 0, pending)
    return torch.stack(out, 1), pending


def _gaps_after(gaps: Tensor, valid: Tensor, begins: Tensor) -> Tensor:
    """Return the gap to the next valid element; 1 where a row or a piece of it ends."""
    out, following = [], torch.ones_like(gaps[:, 0])
    for time in reversed(range(gaps.shape[1])):
        out.append(following)
        following = torch.where(valid[:, time], gaps[:, time], following)
        following = torch.where(begins[:, time], 1, following)
    return torch.stack(out[::-1], 1)
