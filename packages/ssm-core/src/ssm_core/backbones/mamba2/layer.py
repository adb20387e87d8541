"""The state-space dual of Mamba-2: S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = S_t C_t + D x_t in every head.

Symbols as in the paper: H heads of width P, N states, G groups; A, D and dt (H,), x_t (P,), S_t (P, N), B_t and C_t
(N,) those of the head's group. B, C and dt come beside x, as `side`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.mamba2.gated import Gated
from ssm_core.backbones.mamba2.spec import Mamba2Config
from ssm_core.both_ways import BothWays
from ssm_core.in_place import next_gap, over_gaps, without_gap
from ssm_core.mamba import ConvSSM, MambaBlock, draw_steps
from ssm_core.ops import ssd_scan
from ssm_core.protocols import Block, Hint, LayerInfo, Mixer, Side, SlotFn, State
from ssm_core.recurrence import Recurrence


class SSD(nn.Module):
    """The recurrence of Mamba-2 on x (B, L, D), D = H P.

    ``side`` holds ``B`` and ``C`` (B, L, G N), and ``dt`` (B, L, H), to which the bias is added and softplus applied
    here.

    Args:
        d_model: Width D.
        config: Heads, groups, states, chunks, range of the steps.
    """

    causal = True
    streaming = True
    takes_dt = True

    def __init__(self, d_model: int, config: Mamba2Config) -> None:
        super().__init__()
        self.d_model = d_model
        self.config = config
        self.heads = config.heads(d_model)
        self.side_widths = side_widths(d_model, config)
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start of the paper: -A uniform in [a_min, a_max], steps log-uniform in [dt_min, dt_max], D at 1."""
        if self.D.is_meta:
            return
        config, heads = self.config, self.heads
        with torch.device("cpu"):
            rate = config.a_min + (config.a_max - config.a_min) * torch.rand(heads)
            self.A_log.copy_(torch.log(rate))
            self.dt_bias.copy_(draw_steps(heads, config.dt_min, config.dt_max, config.dt_floor))
        self.D.fill_(1.0)

    def param_hints(self) -> dict[str, Hint]:
        """None decays; all stay in float32."""
        kept = Hint(weight_decay=0.0, dtype=torch.float32)
        return {"A_log": kept, "D": kept, "dt_bias": kept}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"S": (B, H, P, N)}``, zeros."""
        own, config = self.D.dtype, self.config
        kind = torch.promote_types(torch.promote_types(dtype or own, own), torch.float32)
        shape = (batch_size, self.heads, config.head_dim, config.state_size)
        return {"S": torch.zeros(shape, device=device or self.D.device, dtype=kind)}

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
            x_bld: Input (B, L, D).
            dt_bl: Gap before each element (B, L), which multiplies its steps.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: ``B``, ``C`` (B, L, G N) and ``dt`` (B, L, H).
            state: State to go on from.
        """
        return over_gaps(
            self._scan,
            x_bld,
            dt_bl=dt_bl,
            mask_bl=mask_bl,
            reset_bl=reset_bl,
            state=state,
            init_state=lambda rows: self.init_state(rows, device=x_bld.device, dtype=x_bld.dtype),
            beside=self._checked(side),
        )

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D), O(D N)."""
        state, gap = without_gap(state)
        gap, given = next_gap(dt_b, gap), self._checked(side)
        with torch.autocast(x_bd.device.type, enabled=False):
            dt, A, D = self._steps(given["dt"], gap), -torch.exp(self.A_log), self.D
            B, C = (self._by_head(given[name]).to(dt.dtype) for name in ("B", "C"))
            x = x_bd.to(dt.dtype).unflatten(-1, (self.heads, -1))
            S = (
                torch.exp(dt * A)[..., None, None] * state["S"]
                + (dt[..., None] * x)[..., None] * B[..., None, :]
            )
            y = (S * C[..., None, :]).sum(-1) + D[:, None] * x
        return y.flatten(-2).to(x_bd.dtype), {"S": S}

    def intervals(self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None) -> Tensor:
        """Return the interval dt of every element and head (B, L, H), times the gaps (B, L): for probes."""
        return self._steps(self._checked(side)["dt"], dt_bl)

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return exp(dt A) (B, L, H, 1, 1) and dt x B^T (B, L, H, P, N); see :mod:`ssm_core.recurrence`."""
        given = self._checked(side)
        dt, B = self._steps(given["dt"], dt_bl), self._by_head(given["B"])
        x = dt[..., None] * x_bld.unflatten(-1, (self.heads, -1))
        return Recurrence(
            torch.exp(-dt * torch.exp(self.A_log))[..., None, None], x[..., None] * B[..., None, :]
        )

    def _scan(
        self, x_bld: Tensor, *, gaps_bl: Tensor | None, state: State | None, **side: Tensor
    ) -> tuple[Tensor, State]:
        with torch.autocast(x_bld.device.type, enabled=False):
            y, S = ssd_scan(
                x_bld.unflatten(-1, (self.heads, -1)),
                self._steps(side["dt"], gaps_bl),
                -torch.exp(self.A_log),
                side["B"].unflatten(-1, (self.config.groups, -1)),
                side["C"].unflatten(-1, (self.config.groups, -1)),
                self.config.chunk_size,
                self.D,
                initial_state=state["S"] if state else None,
            )
        return y.flatten(-2), {"S": S}

    def _steps(self, dt: Tensor, gaps: Tensor | None) -> Tensor:
        """Return the steps (..., H) from those beside x and the gaps (...), in float32 at least."""
        config = self.config
        dt = F.softplus(dt.to(torch.promote_types(dt.dtype, self.dt_bias.dtype)) + self.dt_bias)
        if config.dt_low > 0 or config.dt_high is not None:
            dt = dt.clamp(config.dt_low, config.dt_high)
        return dt if gaps is None else dt * gaps[..., None]

    def _by_head(self, m: Tensor) -> Tensor:
        """(B, G N) as (B, H, N)."""
        groups = self.config.groups
        return m.unflatten(-1, (groups, -1)).repeat_interleave(self.heads // groups, -2)

    def _checked(self, side: Side | None) -> dict[str, Tensor]:
        given = dict(side or {})
        found = {name: value.shape[-1] for name, value in given.items()}
        if found != self.side_widths:
            raise ValueError(
                f"mamba2 of width {self.d_model} needs beside x, as side, tensors of widths {self.side_widths}, but "
                f"got {found or 'none'}"
            )
        return given


def side_widths(width: int, config: Mamba2Config) -> dict[str, int]:
    """Return the widths of what comes beside x at a width D: B and C for all heads of a group, dt for each head."""
    shared = config.groups * config.state_size
    return {"B": shared, "C": shared, "dt": config.heads(width)}


def build(config: Mamba2Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one Mamba-2 block: slot ``mixer`` is the convolution and what follows it, ``ssm`` the recurrence."""

    def one_way(width: int) -> Mixer:
        ssm = slot("ssm", lambda inner: SSD(inner, config), width)
        beside = side_widths(width, config)
        return ConvSSM(ssm, config.conv_width, bias=config.conv_bias, side=beside, passed=("dt",))

    def mixer(width: int) -> Mixer:
        return one_way(width) if layer.causal else BothWays(one_way(width), one_way(width))

    inner = slot("mixer", mixer, config.expand * layer.d_model)
    beside = side_widths(config.expand * layer.d_model, config)
    return MambaBlock(Gated(layer, inner, beside, config), layer, "none")
