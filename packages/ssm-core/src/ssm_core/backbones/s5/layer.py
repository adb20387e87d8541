"""The S5 layer: x' = Lambda x + B u, y = 2 Re(C x) + D u, discretised with each element's own gap.

Symbols as in the paper: H = d_model inputs and outputs, P states of which N = P/2 are stored (conjugate symmetry),
Lambda (N,), B (N, H), C (H, N), D (H,), Delta = exp(log_step) (N,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.s5.spec import S5Config
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.discretize import discretize
from ssm_core.gaps import check_shapes, effective_gaps
from ssm_core.hippo import block_diagonal_start
from ssm_core.ops import diagonal_ssm, linear_scan
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
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
        """Eigenvalues, B and steps learn slower and never decay; all stay in float32."""
        slow = Hint(lr_scale=self.config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        output = Hint(dtype=torch.float32)
        hints = {"Lambda_re": slow, "Lambda_im": slow, "B": slow, "log_step": slow, "C": output, "D": output}
        return hints if self.causal else hints | {"C_reverse": output}

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
        if side:
            raise ValueError(
                f"s5 uses no side inputs, but got {sorted(side)}: its B, C and step do not depend on the input"
            )
        if self.causal and x_reverse_bld is not None:
            raise ValueError("x_reverse_bld needs a bidirectional s5: build the model with causal=False")
        if not self.causal and state:
            raise ValueError(
                "a bidirectional s5 carries no state: build the model with causal=True to stream"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        with torch.autocast(x_bld.device.type, enabled=False):
            u = self._valid(x_bld, mask_bl)
            if not self.causal:
                u_reverse = u if x_reverse_bld is None else self._valid(x_reverse_bld, mask_bl)
                return self._both_ways(u, u_reverse, dt_bl, mask_bl, reset_bl).to(x_bld), ()
            before: dict[str, Tensor] = state or self.init_state(len(u), device=u.device, dtype=u.dtype)
            gaps, after = None, {}
            if dt_bl is not None or mask_bl is not None or "gap" in before:
                pending = before.get("gap", u.new_zeros(len(u)))
                dt = u.new_ones(u.shape[:2]) if dt_bl is None else dt_bl.to(u)
                gaps, pending = effective_gaps(dt, mask_bl, reset_bl, pending)
                after = {} if mask_bl is None and u.shape[1] else {"gap": pending}
            y_bld, x_bn = self._scan(u, gaps, reset_bl, self.C, self.D, before["x"])
            return y_bld.to(x_bld), {"x": x_bn, **after}

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
        step_n, b = self.log_step.exp() * self.config.step_rescale, torch.view_as_complex(self.B)
        dt = step_n if dt_bl is None else step_n * dt_bl[..., None]
        a_bar, gain = discretize(self._lambda(), dt, self.config.discretization)
        return Recurrence(a_bar, gain * (x_bld.to(b.dtype) @ b.mT))

    def _scan(
        self,
        u_blh: Tensor,
        gaps_bl: Tensor | None,
        reset_bl: Tensor | None,
        C: Tensor,
        D: Tensor | None,
        x_bn: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        a, b, c = self._lambda(), torch.view_as_complex(self.B), torch.view_as_complex(C)
        step_n = self.log_step.exp() * self.config.step_rescale
        dt = step_n if gaps_bl is None else step_n * gaps_bl[..., None]
        if reset_bl is None:
            return diagonal_ssm(u_blh, dt, a, b, c, D, x_bn, discretization=self.config.discretization)
        a_bar, gain = discretize(a, dt, self.config.discretization)
        a_bar = a_bar.expand(*u_blh.shape[:2], -1).masked_fill(reset_bl[..., None], 0)
        x_bln, x_bn = linear_scan(a_bar, gain * (u_blh.to(b.dtype) @ b.mT), x_bn)
        y_blh = 2 * (x_bln @ c.mT).real
        return (y_blh if D is None else y_blh + D * u_blh), x_bn

    def _both_ways(
        self,
        u: Tensor,
        u_reverse: Tensor,
        dt_bl: Tensor | None,
        mask_bl: Tensor | None,
        reset_bl: Tensor | None,
    ) -> Tensor:
        assert self.C_reverse is not None
        gaps = back = None
        if dt_bl is not None or mask_bl is not None:
            dt = u.new_ones(u.shape[:2]) if dt_bl is None else dt_bl.to(u)
            gaps, _ = effective_gaps(dt, mask_bl, reset_bl, u.new_zeros(len(u)))
            back = backward_gaps(gaps, mask_bl, reset_bl).flip(1)
        reset_back = None if reset_bl is None else _shift_left(reset_bl, False).flip(1)
        y_bld, _ = self._scan(u, gaps, reset_bl, self.C, self.D, None)
        y_back, _ = self._scan(u_reverse.flip(1), back, reset_back, self.C_reverse, None, None)
        return y_bld + y_back.flip(1)

    def _valid(self, x_bld: Tensor, mask_bl: Tensor | None) -> Tensor:
        """Return x in at least the parameters' precision, zeros where masked."""
        x_bld = x_bld.to(torch.promote_types(x_bld.dtype, self.B.dtype))
        return x_bld if mask_bl is None else torch.where(mask_bl[..., None], x_bld, torch.zeros_like(x_bld))

    def _lambda(self) -> Tensor:
        real = self.Lambda_re.clamp(max=-1e-4) if self.config.clip_eigs else self.Lambda_re
        return torch.complex(real, self.Lambda_im)


def backward_gaps(gaps_bl: Tensor, mask_bl: Tensor | None, reset_bl: Tensor | None = None) -> Tensor:
    """Return the gap after each element, from those before: the next valid element's, and 1 after the last.

    Args:
        gaps_bl: Effective gap before each valid element (B, L), zero at masked ones.
        mask_bl: True where valid (B, L); None if all are.
        reset_bl: True where a sequence begins (B, L), so that the one before it has ended; None if nowhere.
    """
    length = gaps_bl.shape[1]
    position = torch.arange(length, device=gaps_bl.device).expand_as(gaps_bl)
    if mask_bl is None:
        following = position + 1
    else:
        here = torch.where(mask_bl, position, length)
        following = _shift_left(here, length).flip(1).cummin(1).values.flip(1)
    after = F.pad(gaps_bl, (0, 1), value=1.0).gather(1, following)
    if reset_bl is not None:
        sequence = reset_bl.long().cumsum(1)
        after = torch.where(F.pad(sequence, (0, 1)).gather(1, following) == sequence, after, 1.0)
    return after if mask_bl is None else after.masked_fill(~mask_bl, 0)


def _shift_left(x_bl: Tensor, fill: int) -> Tensor:
    return torch.cat([x_bl[:, 1:], torch.full_like(x_bl[:, :1], fill)], 1)


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
