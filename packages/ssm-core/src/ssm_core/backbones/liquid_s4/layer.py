"""The Liquid-S4 layer: in every channel x_k = (A + B u_k) x_{k-1} + B u_k, y_k = 2 Re(C x_k) + D u_k, A diagonal.

Symbols as in the paper, A and B being the discretised ones: H = d_model channels, N = state_size states of which N/2
are stored, dt = exp(log_dt) (H,). A and B come in S = n_ssm copies, and channel h has copy h mod S.

Multiplied out, the state is a sum over index sets i_1 < ... < i_p <= k of A^(k - i_1 - p + 1) B^p u_{i_1} ... u_{i_p}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.backbones.liquid_s4 import products
from ssm_core.backbones.liquid_s4.spec import LiquidS4Config
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.discretize import discretize
from ssm_core.gaps import check_shapes
from ssm_core.hippo import diagonal_start
from ssm_core.in_place import over_gaps
from ssm_core.lti import diagonal_lti
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid


class LiquidS4(nn.Module):
    """One liquid state-space model a channel; it looks back only.

    Args:
        d_model: Width H.
        config: Mode, order, state size, start.

    Raises:
        ValueError: If ``n_ssm`` does not divide the width.
    """

    causal = True
    streaming = True

    def __init__(self, d_model: int, config: LiquidS4Config) -> None:
        super().__init__()
        copies, n = config.n_ssm or d_model, config.state_size // 2
        if d_model % copies:
            raise ValueError(
                f"liquid_s4: n_ssm = {copies} copies of A and B have to divide the width, {d_model}"
            )
        self.d_model = d_model
        self.config = config
        self.takes_dt = config.mode != "pb"
        if not self.takes_dt:
            self.way_out = "--set backbone.mode=kb or exact, or task.time=ignored or appended"
        self.A_real = nn.Parameter(torch.empty(copies, n))
        self.A_imag = nn.Parameter(torch.empty(copies, n))
        self.B = nn.Parameter(torch.empty(copies, n, 2))
        self.C = nn.Parameter(torch.empty(d_model, n, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.log_dt = nn.Parameter(torch.empty(d_model))
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
            self.log_dt.copy_(low + (high - low) * torch.rand(self.d_model))

    def param_hints(self) -> dict[str, Hint]:
        """A, B and steps learn at rates of their own and never decay; all stay in float32."""
        slow = Hint(lr_scale=self.config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        steps = Hint(lr_scale=self.config.lr_scale_dt, weight_decay=0.0, dtype=torch.float32)
        plain = Hint(dtype=torch.float32)
        return {"A_real": slow, "A_imag": slow, "B": slow, "log_dt": steps, "C": plain, "D": plain}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return zeros: ``x`` (B, H, N/2) complex, or (B, order, H, N/2) in the mode kb.

        In the mode pb also ``e`` (B, order, H), the running sums over products of 1, ..., order inputs, and ``count``
        (B,), the number of elements so far.
        """
        device, own = device or self.C.device, self.C.dtype
        kind = torch.promote_types(torch.promote_types(dtype or own, own), torch.complex64)
        (h, n, _), order = self.C.shape, self.config.order
        if self.config.mode == "kb":
            return {"x": torch.zeros(batch_size, order, h, n, device=device, dtype=kind)}
        state = {"x": torch.zeros(batch_size, h, n, device=device, dtype=kind)}
        if self.config.mode == "pb":
            state["e"] = torch.zeros(batch_size, order, h, device=device, dtype=torch.float64)
            state["count"] = torch.zeros(batch_size, device=device, dtype=torch.int64)
        return state

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
        """Run a sequence; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Gap before each element (B, L), which multiplies the steps; refused in the mode pb.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used; passing some is an error.
            state: State to go on from.
        """
        if side:
            raise ValueError(f"liquid_s4 uses no side inputs, but got {sorted(side)}")
        if dt_bl is not None and not self.takes_dt:
            raise ValueError(
                "liquid_s4 in the mode pb takes no gaps (dt_bl): --set backbone.mode=kb or exact, or "
                "task.time=ignored or appended"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        with torch.autocast(x_bld.device.type, enabled=False):
            u = x_bld.to(torch.promote_types(x_bld.dtype, self.C.dtype))

            def start(rows: int) -> State:
                return self.init_state(rows, device=u.device, dtype=u.dtype)

            state = state or start(len(u))
            if self.takes_dt:
                y_bld, after = over_gaps(
                    self._scan,
                    u,
                    dt_bl=dt_bl,
                    mask_bl=mask_bl,
                    reset_bl=reset_bl,
                    state=state,
                    init_state=start,
                )
            else:
                y_bld, after = over_valid(
                    self._convolve, u, mask_bl=mask_bl, reset_bl=reset_bl, state=state, init_state=start
                )
        return y_bld.to(x_bld), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, H) to (B, H)."""
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bld, state = self.forward(x_bd[:, None], dt_bl=dt_bl, side=side, state=state)
        return y_bld[:, 0], state

    def _scan(self, u_blh: Tensor, *, gaps_bl: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """Modes exact and kb."""
        assert state is not None
        a, b = self._discrete(gaps_bl, u_blh.dtype)
        if self.config.mode == "exact":
            x, last = products.of_all_orders(u_blh, a, b, state["x"], bounded=self.config.bound == "disc")
        else:
            x, last = products.up_to_order(u_blh, a, b, state["x"])
        y = 2 * torch.einsum("blhn,hn->blh", x, torch.view_as_complex(self.C)).real
        return y + self.D * u_blh, {"x": last}

    def _convolve(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Mode pb: S4D, and the sums over products of two and more inputs, each with its weight 2 Re(C B^p)."""
        assert state is not None
        u_blh, config, c = x_bld, self.config, torch.view_as_complex(self.C)
        log_a, b = self._log_discrete()
        b = b.to(torch.promote_types(u_blh.dtype, torch.complex64))
        y, x = diagonal_lti(u_blh, log_a, b, c, self.D, state["x"], lengths_b=lengths_b)
        e, sums = products.running_sums(u_blh, state["e"])
        length, count = u_blh.shape[1], state["count"]
        if config.order > 1:
            powers = torch.stack(
                [2 * (c * b**p).sum(-1).real for p in range(2, config.order + 1)]
            )  # (order-1, H)
            extra = e[:, :, 1:]
            if config.normalize == "root":
                k = (count[:, None] + torch.arange(1, length + 1, device=u_blh.device)).to(e.dtype)
                p = torch.arange(2, config.order + 1, device=u_blh.device)
                extra = extra * k[..., None, None] ** (-p[:, None] / 2)
            y = y + torch.einsum("blph,ph->blh", extra, powers.to(e.dtype)).to(y.dtype)
        return y, {"x": x, "e": sums, "count": count + (length if lengths_b is None else lengths_b)}

    def _discrete(self, gaps_bl: Tensor | None, real: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A and B over each gap, (H, N/2) or (B, L, H, N/2), of the precision of ``real``."""
        kind = torch.promote_types(real, torch.complex64)
        a, dt_h = self._system()
        dt = dt_h[:, None]
        if gaps_bl is not None:
            a, dt = a.to(kind), dt.to(real) * gaps_bl[..., None, None].to(real)
        a_bar, gain = discretize(a, dt, self.config.discretization)
        return a_bar.to(kind), gain.to(kind) * self._of_channels(torch.view_as_complex(self.B))

    def _log_discrete(self) -> tuple[Tensor, Tensor]:
        """Return the logarithm of A in double precision, whose multiples are phases, and B, both (H, N/2)."""
        a, dt_h = self._system()
        z = dt_h[:, None] * a
        _, gain = discretize(a, dt_h[:, None], self.config.discretization)
        log_a = z if self.config.discretization == "zoh" else torch.log((2 + z) / (2 - z))
        return log_a, gain * self._of_channels(torch.view_as_complex(self.B))

    def _system(self) -> tuple[Tensor, Tensor]:
        """Return the continuous A (H, N/2) and the steps (H,), in double precision."""
        a = torch.complex(-self.A_real.double().exp(), -self.A_imag.double())
        return self._of_channels(a), self.log_dt.double().exp()

    def _of_channels(self, copies: Tensor) -> Tensor:
        """(S, N/2) as (H, N/2)."""
        return copies.repeat(self.d_model // len(copies), 1)


def build(config: LiquidS4Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one Liquid-S4 block; its two slots coincide."""
    mixer = whole(lambda width: LiquidS4(width, config), slot, layer.d_model)
    return ResidualBlock(mixer, layer, config.activation, drop_mixed=True)
