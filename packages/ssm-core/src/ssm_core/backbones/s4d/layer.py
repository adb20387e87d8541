"""The S4D layer: in every channel x' = A x + B u, y = 2 Re(C x) + D u, with A diagonal.

Symbols as in the paper: H = d_model channels, N = state_size of which N/2 are stored, dt = exp(inv_dt) (H,). A and B
come in S = n_ssm copies, and channel h has copy h mod S.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.s4d.spec import S4DConfig
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.discretize import discretize
from ssm_core.hippo import diagonal_start
from ssm_core.lti import diagonal_lti, equal_steps, refuse, two_sided
from ssm_core.ops import selective_scan, vandermonde
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import flip_valid, gaps_after, over_valid
from ssm_core.recurrence import Recurrence


class S4D(nn.Module):
    """One S4D state-space model a channel.

    Args:
        d_model: Width H.
        config: State size, start, discretisation.
        causal: One direction; otherwise a second C reads the same system running backwards.

    Raises:
        ValueError: If ``n_ssm`` does not divide the width.
    """

    takes_dt = True

    def __init__(self, d_model: int, config: S4DConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.d_model, self.causal, self.streaming = d_model, causal, causal
        self.config = config
        copies, n = config.n_ssm or d_model, config.state_size // 2
        if d_model % copies:
            raise ValueError(f"s4d: n_ssm = {copies} copies of A and B have to divide the width, {d_model}")
        self.A_real = nn.Parameter(torch.empty(copies, n))
        self.A_imag = nn.Parameter(torch.empty(copies, n))
        self.B = nn.Parameter(torch.empty(copies, n, 2))
        self.C = nn.Parameter(torch.empty(1 if causal else 2, d_model, n, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.inv_dt = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start: A and B by the knob ``start``, C and D normal of variance 1, steps log-uniform."""
        if self.C.is_meta:
            return
        config = self.config
        with torch.device("cpu"):
            a, b = diagonal_start(config.start, config.state_size)
            if config.b_clip is not None:
                b = torch.complex(b.real, b.imag.clamp(-config.b_clip, config.b_clip))
            self.A_real.copy_((-a.real).log())
            self.A_imag.copy_(-a.imag)
            self.B.copy_(torch.view_as_real(b))
            self.C.copy_(torch.randn(self.C.shape) * 0.5**0.5)
            self.D.copy_(torch.randn(self.d_model))
            low, high = math.log(config.dt_min), math.log(config.dt_max)
            self.inv_dt.copy_(low + (high - low) * torch.rand(self.d_model))

    def param_hints(self) -> dict[str, Hint]:
        """A, B and steps learn at rates of their own and never decay; all stay in float32."""
        config, wide = self.config, torch.float32
        slow = Hint(lr_scale=config.lr_scale, weight_decay=0.0, dtype=wide)
        steps = Hint(lr_scale=config.lr_scale_dt, weight_decay=0.0, dtype=wide)
        free = Hint(dtype=wide)
        c = free if config.lr_scale_c is None else Hint(config.lr_scale_c, weight_decay=0.0, dtype=wide)
        return {"A_real": slow, "A_imag": slow, "B": slow, "C": c, "D": free, "inv_dt": steps}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"x": (B, H, N/2) complex}``, zeros; a bidirectional layer has no state."""
        if not self.causal:
            return ()
        kind = torch.promote_types(torch.promote_types(dtype or self.C.dtype, self.C.dtype), torch.complex64)
        shape = (batch_size, self.d_model, self.C.shape[2])
        return {"x": torch.zeros(shape, device=device or self.C.device, dtype=kind)}

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
        """Convolve a sequence, or scan it if its steps differ; see :class:`ssm_core.protocols.Mixer`.

        After a call with a mask the state also holds ``gap`` (B,): the time since each row's last valid element.

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Gap before each element (B, L); the step of channel h is ``exp(inv_dt_h) * rate * dt``.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used by S4D; passing some is an error.
            state: State to go on from (causal layers only).
            x_reverse_bld: Input of the backward direction, if it is to differ (bidirectional layers only).
        """
        refuse("s4d", self.causal, side, state, x_reverse_bld)
        wide = torch.promote_types(x_bld.dtype, self.C.dtype)
        with torch.autocast(x_bld.device.type, enabled=False):
            y_bld, after = over_valid(
                self._run,
                x_bld.to(wide),
                dt_bl=dt_bl,
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=state or None,
                init_state=self._fresh(x_bld.device, wide) if self.causal else None,
                takes_dt=True,
                beside={"x_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
            )
        return y_bld.to(x_bld), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, H) to (B, H)."""
        if not self.causal:
            raise ValueError("a bidirectional s4d cannot step: build the model with causal=True")
        refuse("s4d", True, side, None, None)
        with torch.autocast(x_bd.device.type, enabled=False):
            x_bhn, u_bh = state["x"], x_bd.to(torch.promote_types(x_bd.dtype, self.C.dtype))
            gap_b = state.get("gap", u_bh.new_zeros(len(u_bh))) + (1.0 if dt_b is None else dt_b)
            a, dt_h = self._system()
            a_bar, gain = discretize(a, dt_h[:, None] * gap_b[:, None, None], self.config.discretization)
            b, c = self._b(), self._c(a, dt_h)[0]
            x_bhn = a_bar.to(x_bhn.dtype) * x_bhn + gain.to(x_bhn.dtype) * b * u_bh[..., None]
            y_bh = 2 * (c * x_bhn).sum(-1).real + self.D * u_bh
        return y_bh.to(x_bd), {"x": x_bhn}

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return exp(dt A), (H, N/2) or with gaps (B, L, H, N/2), and gain B u; see :mod:`ssm_core.recurrence`."""
        a, dt_h = self._system()
        dt = dt_h[:, None] if dt_bl is None else dt_h[:, None] * dt_bl[..., None, None]
        a_bar, gain = discretize(a, dt, self.config.discretization)
        return Recurrence(a_bar, gain * self._b() * x_bld[..., None])

    def _fresh(self, device: torch.device, dtype: torch.dtype):
        return lambda rows: self.init_state(rows, device=device, dtype=dtype)

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        x_bhn = None if state is None else state["x"]
        if gaps_bl is None or equal_steps(gaps_bl, lengths_b):
            return self._convolve(x_bld, lengths_b, x_bhn, beside.get("x_reverse"))
        return self._scan(x_bld, gaps_bl, lengths_b, x_bhn, beside.get("x_reverse"))

    def _convolve(
        self, u_blh: Tensor, lengths_b: Tensor | None, x_bhn: Tensor | None, u_back: Tensor | None
    ) -> tuple[Tensor, State]:
        a, dt_h = self._system()
        log_a, b, c = *self._discrete(a, dt_h), self._c(a, dt_h)
        if self.causal:
            y_blh, x_bhn = diagonal_lti(u_blh, log_a, b, c[0], self.D, x_bhn, lengths_b=lengths_b)
            return y_blh, {"x": x_bhn}
        length = max(u_blh.shape[1], 1)
        both = vandermonde((c * b).flatten(0, 1), log_a.repeat(2, 1), length)
        k, k_back = both.chunk(2)
        start = self.config.backward_start
        return two_sided(u_blh, k, k_back, self.D, u_back_blh=u_back, start=start), ()

    def _scan(
        self,
        u_blh: Tensor,
        gaps_bl: Tensor,
        lengths_b: Tensor | None,
        x_bhn: Tensor | None,
        u_back: Tensor | None,
    ) -> tuple[Tensor, State]:
        a, dt_h = self._system()
        b, c, kind = self._b().expand(len(dt_h), -1), self._c(a, dt_h), self.config.discretization
        a, dt_h = a.to(b.dtype), dt_h.to(self.C.dtype)
        y_blh, x_bhn = selective_scan(
            u_blh, dt_h * gaps_bl[..., None], a, b, c[0], self.D, initial_state=x_bhn, discretization=kind
        )
        if self.causal:
            return y_blh, {"x": x_bhn}
        back = flip_valid(u_blh if u_back is None else u_back, lengths_b)
        gaps = flip_valid(gaps_after(gaps_bl, lengths_b), lengths_b)
        y_back, _ = selective_scan(back, dt_h * gaps[..., None], a, b, c[1], discretization=kind)
        if self.config.backward_start == "next":
            y_back = F.pad(y_back, (0, 0, 1, 0))[:, :-1]
        return y_blh + flip_valid(y_back, lengths_b), ()

    def _system(self) -> tuple[Tensor, Tensor]:
        """Return A (H, N/2) and the steps (H,), in double precision: dt Im(A) reaches 130 rad a step."""
        a = torch.complex(-self.A_real.double().exp(), -self.A_imag.double())
        return self._of_channels(a), self.inv_dt.double().exp() * self.config.rate

    def _discrete(self, a: Tensor, dt_h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of A's discrete form in double precision, and B's (H, N/2)."""
        z = dt_h[:, None] * a
        _, gain = discretize(a, dt_h[:, None], self.config.discretization)
        log_a = z if self.config.discretization == "zoh" else torch.log((2 + z) / (2 - z))
        b = self._b()
        return log_a, gain.to(b.dtype) * b

    def _b(self) -> Tensor:
        return self._of_channels(torch.view_as_complex(self.B))

    def _c(self, a: Tensor, dt_h: Tensor) -> Tensor:
        """Return C (1 or 2, H, N/2), zero for modes above the band limit."""
        c = torch.view_as_complex(self.C)
        if self.config.bandlimit is None:
            return c
        turns = dt_h[:, None] * a.imag.abs() / (2 * math.pi)  # of a circle in each step; 1/2 is Nyquist
        return c * (turns < self.config.bandlimit / 2)

    def _of_channels(self, copies: Tensor) -> Tensor:
        """(S, N/2) as (H, N/2)."""
        return copies.repeat(self.d_model // len(copies), 1)


def build(config: S4DConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one S4D block; its two slots coincide."""
    mixer = whole(lambda width: S4D(width, config, causal=layer.causal), slot, layer.d_model)
    return ResidualBlock(mixer, layer, config.activation, drop_mixed=True)
