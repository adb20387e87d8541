"""The S5 layer: x' = Lambda x + B u, y = 2 Re(C x) + D u, discretised with each element's own gap.

Symbols as in the paper: H = d_model inputs and outputs, P states of which N = P/2 are stored (conjugate symmetry),
Lambda (N,), B (N, H), C (H, N), D (H,), Delta = exp(log_step) (N,).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ssm_core.backbones.s5.spec import S5Config
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.discretize import discretize
from ssm_core.gaps import check_shapes, effective_gaps
from ssm_core.hippo import block_diagonal_start
from ssm_core.lti import equal_steps, refuse
from ssm_core.ops import diagonal_ssm, linear_scan
from ssm_core.ops.diagonal_ssm import into_states, out_of_states
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import flip_valid, gaps_after, last_inputs, over_valid
from ssm_core.recurrence import Recurrence


class S5(nn.Module):
    """One S5 state-space model over all channels (MIMO).

    Args:
        d_model: Width H.
        config: State size, start, discretisation.
        causal: One direction; otherwise a second C reads a scan that runs backwards over the same inputs.
    """

    takes_dt = True

    def __init__(self, d_model: int, config: S5Config, *, causal: bool = True) -> None:
        super().__init__()
        n, h = config.state_size // 2, d_model
        self.d_model = h
        self.causal = causal
        self.streaming = causal
        self.config = config
        self.Lambda_re = nn.Parameter(torch.empty(n))
        self.Lambda_im = nn.Parameter(torch.empty(n))
        self.B = nn.Parameter(torch.empty(n, h, 2))
        self.C = nn.Parameter(torch.empty(h, n, 2))
        self.C_reverse = None if causal else nn.Parameter(torch.empty(h, n, 2))
        self.D = nn.Parameter(torch.empty(h))
        self.log_step = nn.Parameter(torch.empty(n))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start of the paper: HiPPO-N blocks, B and C taken to their eigenbasis."""
        if self.B.is_meta:
            return
        config, h, p = self.config, self.d_model, self.config.state_size
        with torch.device("cpu"):
            lambda_n, v = block_diagonal_start(p, config.blocks)
            self.Lambda_re.copy_(lambda_n.real)
            self.Lambda_im.copy_(lambda_n.imag)
            # The original code's default initialiser counts B's rows, not its columns, as the fan-in.
            b = lecun_normal((p, h), fan_in=p).to(v.dtype)
            self.B.copy_(torch.view_as_real(v.mH @ b))
            for c in (self.C, self.C_reverse):
                if c is not None:
                    c.copy_(torch.view_as_real(draw_c(config.c_init, h, p, v)))
            self.D.copy_(torch.randn(h))
            low, high = math.log(config.dt_min), math.log(config.dt_max)
            self.log_step.copy_(low + (high - low) * torch.rand(p // 2))

    def param_hints(self) -> dict[str, Hint]:
        """Eigenvalues learn slower and never decay, the rest is as ``opt_config`` says; all stay in float32."""
        config = self.config
        slow = Hint(lr_scale=config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        regular = Hint(dtype=torch.float32)
        inputs = {
            "BandCdecay": Hint(lr_scale=config.lr_scale, dtype=torch.float32),
            "BfastandCdecay": regular,
        }.get(config.opt_config, slow)
        outputs = slow if config.opt_config == "noBCdecay" else regular
        hints = {"Lambda_re": slow, "Lambda_im": slow, "B": inputs, "C": outputs, "D": outputs}
        hints["log_step"] = regular if config.dt_global else slow
        return hints if self.causal else hints | {"C_reverse": outputs}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"x": (B, N) complex}``, zeros; a bidirectional layer has no state."""
        if not self.causal:
            return ()
        kind = torch.promote_types(torch.promote_types(dtype or self.B.dtype, self.B.dtype), torch.complex64)
        return {"x": torch.zeros(batch_size, self.B.shape[0], device=device or self.B.device, dtype=kind)}

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
        """Scan a sequence; see :class:`ssm_core.protocols.Mixer`.

        After a call with a mask the state also holds ``gap`` (B,): the time since each row's last valid element.

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Gap before each element (B, L); the step of state n is ``Delta_n * dt``.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used by S5; passing some is an error.
            state: State to go on from (causal layers only).
            x_reverse_bld: Input of the backward direction, if it is to differ (bidirectional layers only).
        """
        refuse("s5", self.causal, side, state, x_reverse_bld)
        wide = torch.promote_types(x_bld.dtype, self.B.dtype)
        with torch.autocast(x_bld.device.type, enabled=False):
            if self.causal:
                y_bld, after = self._forwards(x_bld.to(wide), dt_bl, mask_bl, reset_bl, state or None)
            else:
                y_bld, after = over_valid(
                    partial(self._both_ways, dt_bl is None),
                    x_bld.to(wide),
                    dt_bl=dt_bl,
                    mask_bl=mask_bl,
                    reset_bl=reset_bl,
                    takes_dt=True,
                    beside={"u_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
                )
        return y_bld.to(x_bld), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, H) to (B, H)."""
        if not self.causal:
            raise ValueError("a bidirectional s5 cannot step: build the model with causal=True")
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bld, state = self.forward(x_bd[:, None], dt_bl=dt_bl, side=side, state=state)
        return y_bld[:, 0], state

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return exp(Lambda Delta dt), (N,) or with gaps (B, L, N), and gain B u; see :mod:`ssm_core.recurrence`."""
        a_bar, gain = discretize(self._lambda(), self._steps(dt_bl), self.config.discretization)
        b = torch.view_as_complex(self.B)
        return Recurrence(a_bar, gain * (x_bld.to(b.dtype) @ b.mT))

    def _forwards(
        self,
        u: Tensor,
        dt_bl: Tensor | None,
        mask_bl: Tensor | None,
        reset_bl: Tensor | None,
        state: State | None,
    ) -> tuple[Tensor, State]:
        """Scan in place: a masked element has a gap of 0, a reset one a decay of 0."""
        check_shapes(u, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        before: dict[str, Tensor] = state or self.init_state(len(u), device=u.device, dtype=u.dtype)
        gaps, after = None, {}
        if mask_bl is not None:
            u = torch.where(mask_bl[..., None], u, torch.zeros_like(u))
        if dt_bl is not None or mask_bl is not None or "gap" in before:
            pending = before.get("gap", u.new_zeros(len(u)))
            dt = u.new_ones(u.shape[:2]) if dt_bl is None else dt_bl.to(u)
            gaps, pending = effective_gaps(dt, mask_bl, reset_bl, pending)
            after = {} if mask_bl is None and u.shape[1] else {"gap": pending}
        padded = None
        if dt_bl is None and equal_steps(gaps, None if mask_bl is None else mask_bl.sum(1)):
            gaps, padded = None, mask_bl
        y_bld, x_bn = self._scan(u, gaps, padded, reset_bl, before["x"])
        return y_bld, {"x": x_bn, **after}

    def _scan(
        self,
        u_blh: Tensor,
        gaps_bl: Tensor | None,
        padded_bl: Tensor | None,
        reset_bl: Tensor | None,
        x_bn: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return y (B, L, H) and the last state (B, N): with equal gaps, that before what ``padded_bl`` masks."""
        if padded_bl is None and reset_bl is None:
            return self._run(u_blh, gaps_bl, self.C, self.D, x_bn)
        a = self._lambda()
        wide = torch.promote_types(u_blh.dtype, a.dtype)
        b, c = (torch.view_as_complex(weight).to(wide) for weight in (self.B, self.C))
        a_bar, gain = discretize(a.to(wide), self._steps(gaps_bl), self.config.discretization)
        bu = into_states(u_blh, gain[:, None] * b) if gaps_bl is None else gain * into_states(u_blh, b)
        if reset_bl is not None:
            a_bar = a_bar.expand_as(bu)
            a_bar = a_bar if padded_bl is None else a_bar.masked_fill(~padded_bl[..., None], 1)
            a_bar = a_bar.masked_fill(reset_bl[..., None], 0)
        x_bln, last_bn = linear_scan(a_bar, bu, x_bn.to(wide))
        if padded_bl is not None and reset_bl is None:  # the last one decayed over the padding
            last_bn = last_inputs(x_bn.to(wide)[:, None], x_bln, padded_bl.sum(1))[:, 0]
        return out_of_states(x_bln, c) + self.D * u_blh, last_bn

    def _both_ways(
        self,
        may_be_equal: bool,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        assert self.C_reverse is not None
        gaps = back = None
        if gaps_bl is not None and not (may_be_equal and equal_steps(gaps_bl, lengths_b)):
            gaps, back = gaps_bl, flip_valid(gaps_after(gaps_bl, lengths_b), lengths_b)
        y_bld, _ = self._run(x_bld, gaps, self.C, self.D)
        y_back, _ = self._run(flip_valid(beside.get("u_reverse", x_bld), lengths_b), back, self.C_reverse)
        return y_bld + flip_valid(y_back, lengths_b), ()

    def _run(
        self,
        u_blh: Tensor,
        gaps_bl: Tensor | None,
        C: Tensor,
        D: Tensor | None = None,
        x_bn: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        a, b, c = self._lambda(), torch.view_as_complex(self.B), torch.view_as_complex(C)
        steps, kind = self._steps(gaps_bl), self.config.discretization
        return diagonal_ssm(u_blh, steps, a, b, c, D, x_bn, discretization=kind)

    def _steps(self, gaps_bl: Tensor | None) -> Tensor:
        """Return Delta of each state (N,), times the gap before each element if there are gaps (B, L, N)."""
        step_n = self.log_step.exp() * self.config.step_rescale
        return step_n if gaps_bl is None else step_n * gaps_bl[..., None]

    def _lambda(self) -> Tensor:
        real = self.Lambda_re.clamp(max=-1e-4) if self.config.clip_eigs else self.Lambda_re
        return torch.complex(real, self.Lambda_im)


def lecun_normal(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Draw from the normal truncated at two deviations, of variance 1 / fan_in after truncation, float64."""
    std = fan_in**-0.5 / 0.87962566103423978
    return nn.init.trunc_normal_(torch.empty(shape, dtype=torch.float64), std=std, a=-2 * std, b=2 * std)


def draw_c(kind: str, h: int, p: int, v: Tensor) -> Tensor:
    """Draw C (H, P/2) complex128 in the eigenbasis V (P, P/2)."""
    if kind == "complex_normal":
        return torch.randn(h, p // 2, dtype=torch.complex128)
    fan_in = p if kind == "trunc_standard_normal" else p * h
    return torch.view_as_complex(lecun_normal((h, p, 2), fan_in)) @ v


def build(config: S5Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one S5 block; its two slots coincide."""
    mixer = whole(lambda width: S5(width, config, causal=layer.causal), slot, layer.d_model)
    return ResidualBlock(mixer, layer, config.activation)
