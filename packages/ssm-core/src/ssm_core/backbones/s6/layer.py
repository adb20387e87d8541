"""S6, the selective scan: h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t + D x_t, with dt, B, C read off x.

Symbols as in the paper: D channels, N states a channel, R = dt_rank; A (D, N), D (D,), and for each element dt (D,),
B and C (N,), the same for all channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.s6.gated import Gated
from ssm_core.backbones.s6.spec import S6Config
from ssm_core.both_ways import BothWays
from ssm_core.in_place import next_gap, over_gaps, without_gap
from ssm_core.mamba import ConvSSM, MambaBlock, draw_steps
from ssm_core.ops import selective_scan, selective_state_update
from ssm_core.ops.selective_scan.discretization import factors
from ssm_core.protocols import Block, Hint, LayerInfo, Mixer, Side, SlotFn, State
from ssm_core.recurrence import Recurrence


class StepMap(nn.Linear):
    """The map from R values to D steps; softplus of its bias is the step where they are zero.

    Args:
        rank: R.
        width: D.
        config: The range of the steps and the start of the weights.
    """

    def __init__(self, rank: int, width: int, config: S6Config) -> None:
        self.config = config
        super().__init__(rank, width)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start of the paper: steps log-uniform in [dt_min, dt_max]."""
        if self.weight.is_meta:
            return
        config, bound = self.config, self.config.dt_scale * self.in_features**-0.5
        if config.dt_init == "constant":
            self.weight.fill_(bound)
        else:
            self.weight.uniform_(-bound, bound)
        with torch.device("cpu"):
            self.bias.copy_(draw_steps(self.out_features, config.dt_min, config.dt_max, config.dt_floor))

    def param_hints(self) -> dict[str, Hint]:
        """Both stay in float32; the bias does not decay."""
        scale = self.config.dt_lr_scale
        return {
            "weight": Hint(lr_scale=scale, dtype=torch.float32),
            "bias": Hint(lr_scale=scale, weight_decay=0.0, dtype=torch.float32),
        }


class S6(nn.Module):
    """The selective state-space model: a diagonal one a channel, its step, B and C computed from the input.

    Args:
        d_model: Number of channels D.
        config: State size, steps, eigenvalues, discretisation.
    """

    causal = True
    streaming = True
    takes_dt = True

    def __init__(self, d_model: int, config: S6Config) -> None:
        super().__init__()
        self.d_model = d_model
        self.config = config
        self.rank = config.rank(d_model)
        stored = config.state_size // 2 if config.eigenvalues == "complex" else config.state_size
        # Half the states, complex, take as many numbers of B and C as all of them, real.
        self.x_proj = nn.Linear(d_model, self.rank + 2 * config.state_size, bias=False)
        self.dt_proj = StepMap(self.rank, d_model, config)
        self.A_log = nn.Parameter(torch.empty(d_model, stored))
        self.A_imag = nn.Parameter(torch.empty(d_model, stored)) if config.eigenvalues == "complex" else None
        self.D = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start A as S4D-Real, or S4D-Lin if complex, and D at 1; the two maps have starts of their own."""
        if self.D.is_meta:
            return
        n = torch.arange(self.A_log.shape[1], dtype=self.A_log.dtype, device=self.A_log.device)
        if self.A_imag is None:
            self.A_log.copy_(torch.log(n + 1).expand_as(self.A_log))
        else:
            self.A_log.fill_(math.log(0.5))
            self.A_imag.copy_((math.pi * n).expand_as(self.A_imag))
        self.D.fill_(1.0)

    def param_hints(self) -> dict[str, Hint]:
        """A and D do not decay and stay in float32."""
        kept = Hint(weight_decay=0.0, dtype=torch.float32)
        hints = {"A_log": kept, "D": kept}
        return hints if self.A_imag is None else hints | {"A_imag": kept}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"x": (B, D, N)}``, zeros; half of the states, complex, with complex eigenvalues."""
        own = self.A_log.dtype
        kind = torch.promote_types(torch.promote_types(dtype or own, own), torch.float32)
        kind = kind if self.A_imag is None else torch.promote_types(kind, torch.complex64)
        return {"x": torch.zeros(batch_size, *self.A_log.shape, device=device or self.D.device, dtype=kind)}

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
        """Scan a sequence; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input (B, L, D), from which the steps, B and C are computed too.
            dt_bl: Gap before each element (B, L), which multiplies its steps.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used; passing some is an error.
            state: State to go on from.
        """
        self._refuse(side)
        return over_gaps(
            self._scan,
            x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            state=state,
            init_state=lambda rows: self.init_state(rows, device=x_bld.device, dtype=x_bld.dtype),
        )

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D), O(D N)."""
        self._refuse(side)
        state, gap = without_gap(state)
        dt, B, C = self._selected(x_bd, next_gap(dt_b, gap))
        y_bd, x = selective_state_update(
            state["x"], x_bd, dt, self._A(), B, C, self.D, discretization=self.config.discretization
        )
        return y_bd, {"x": x}

    def intervals(self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None) -> Tensor:
        """Return the interval dt of every element and channel (B, L, D), times the gaps (B, L): for probes.

        With the element's own B and x it is all that the element tells the state.
        """
        self._refuse(side)
        return self._selected(x_bld, dt_bl)[0]

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return a-bar and gain B x, each (B, L, D, N): both follow the input; see :mod:`ssm_core.recurrence`."""
        self._refuse(side)
        dt, B, _ = self._selected(x_bld, dt_bl)
        a_bar, gain = factors(self._A(), dt[..., None], self.config.discretization)
        return Recurrence(a_bar, gain * B[..., None, :] * x_bld[..., None])

    def _scan(self, x_bld: Tensor, *, gaps_bl: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        dt, B, C = self._selected(x_bld, gaps_bl)
        y_bld, x = selective_scan(
            x_bld,
            dt,
            self._A(),
            B,
            C,
            self.D,
            initial_state=state["x"] if state else None,
            discretization=self.config.discretization,
        )
        return y_bld, {"x": x}

    def _selected(self, x: Tensor, gaps: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the steps (..., D), and B and C (..., N), of an input (..., D); the steps in float32 at least."""
        n = self.config.state_size
        low, B, C = self.x_proj(x).split([self.rank, n, n], -1)
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(low.dtype, self.D.dtype)
            low, B, C = low.to(wide), B.to(wide), C.to(wide)
            dt = F.softplus(F.linear(low, self.dt_proj.weight.to(wide), self.dt_proj.bias.to(wide)))
            dt = dt if gaps is None else dt * gaps[..., None]
            if self.A_imag is not None:
                B, C = (torch.complex(*m.chunk(2, -1)) for m in (B, C))
        return dt, B, C

    def _A(self) -> Tensor:
        real = -torch.exp(self.A_log)
        return real if self.A_imag is None else torch.complex(real, self.A_imag)

    def _refuse(self, side: Side | None) -> None:
        if side:
            raise ValueError(
                f"s6 uses no side inputs, but got {sorted(side)}: it computes B, C and its step from x itself"
            )


def build(config: S6Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one Mamba block: slot ``mixer`` is the convolution and what follows it, ``ssm`` the selective scan."""

    def one_way(width: int) -> Mixer:
        ssm = slot("ssm", lambda inner: S6(inner, config), width)
        return ConvSSM(ssm, config.conv_width, bias=config.conv_bias)

    def mixer(width: int) -> Mixer:
        return one_way(width) if layer.causal else BothWays(one_way(width), one_way(width))

    inner = slot("mixer", mixer, config.inner(layer.d_model))
    return MambaBlock(Gated(layer, inner, config), layer, "none")
