"""The linear recurrent unit: x_k = lambda x_{k-1} + gamma (B u_k), y_k = Re(C x_k) + D u_k.

Symbols as in the paper: H = d_model inputs and outputs, N states; lambda = exp(-exp(nu_log) + i exp(theta_log)) and
gamma = exp(gamma_log), all (N,), B (N, H), C (H, N) complex, D (H,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.backbones.lru.spec import LRUConfig
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.gaps import check_shapes
from ssm_core.in_place import over_gaps
from ssm_core.ops import linear_scan
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import flip_valid, gaps_after, over_valid
from ssm_core.recurrence import Recurrence


class LRU(nn.Module):
    """One linear recurrence over all channels.

    Args:
        d_model: Width H.
        config: State size, ring of the initial eigenvalues.
        causal: One direction; otherwise a second C reads a recurrence that runs backwards over the same inputs.
    """

    takes_dt = True

    def __init__(self, d_model: int, config: LRUConfig, *, causal: bool = True) -> None:
        super().__init__()
        n, h = config.state_size, d_model
        self.d_model = h
        self.causal = causal
        self.streaming = causal
        self.config = config
        self.nu_log = nn.Parameter(torch.empty(n))
        self.theta_log = nn.Parameter(torch.empty(n))
        self.gamma_log = nn.Parameter(torch.empty(n))
        self.B = nn.Parameter(torch.empty(n, h, 2))
        self.C = nn.Parameter(torch.empty(h, n, 2))
        self.C_reverse = None if causal else nn.Parameter(torch.empty(h, n, 2))
        self.D = nn.Parameter(torch.empty(h))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start of the paper: eigenvalues uniform on a ring, gamma such that states have the inputs' size."""
        if self.B.is_meta:
            return
        config, (n, h, _) = self.config, self.B.shape
        with torch.device("cpu"):
            u, v = torch.rand(2, n, dtype=torch.float64).clamp(min=1e-12)
            squared = (u * (config.r_max**2 - config.r_min**2) + config.r_min**2).clamp(max=1 - 1e-12)
            self.nu_log.copy_(torch.log(-0.5 * torch.log(squared)))
            self.theta_log.copy_(torch.log(config.max_phase * v))
            self.gamma_log.copy_(0.5 * torch.log1p(-squared))
            self.B.copy_(torch.randn(n, h, 2) / math.sqrt(2 * h))
            for c in (self.C, self.C_reverse):
                if c is not None:
                    c.copy_(torch.randn(h, n, 2) / math.sqrt(n))
            self.D.copy_(torch.randn(h))

    def param_hints(self) -> dict[str, Hint]:
        """Eigenvalues, gamma and B learn slower and never decay; all stay in float32."""
        slow = Hint(lr_scale=self.config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        plain = Hint(dtype=torch.float32)
        hints = {"nu_log": slow, "theta_log": slow, "gamma_log": slow, "B": slow, "C": plain, "D": plain}
        return hints if self.causal else hints | {"C_reverse": plain}

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

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Gap before each element (B, L), as a number of the unit's own steps.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used; passing some is an error.
            state: State to go on from (causal layers only).
            x_reverse_bld: Input of the backward direction, if it is to differ (bidirectional layers only).
        """
        if side:
            raise ValueError(f"lru uses no side inputs, but got {sorted(side)}")
        if self.causal and x_reverse_bld is not None:
            raise ValueError("x_reverse_bld needs a bidirectional lru: build the model with causal=False")
        if not self.causal and state:
            raise ValueError(
                "a bidirectional lru carries no state: build the model with causal=True to stream"
            )
        check_shapes(x_bld, dt_bl=dt_bl, mask_bl=mask_bl, reset_bl=reset_bl)
        with torch.autocast(x_bld.device.type, enabled=False):
            wide = torch.promote_types(x_bld.dtype, self.B.dtype)
            u = x_bld.to(wide)
            if self.causal:
                y_bld, after = over_gaps(
                    self._forwards,
                    u,
                    dt_bl=dt_bl,
                    mask_bl=mask_bl,
                    reset_bl=reset_bl,
                    state=state,
                    init_state=lambda rows: self.init_state(rows, device=u.device, dtype=u.dtype),
                )
                return y_bld.to(x_bld), after
            y_bld, _ = over_valid(
                self._both_ways,
                u,
                dt_bl=dt_bl,
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                takes_dt=True,
                beside={"u_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
            )
            return y_bld.to(x_bld), ()

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, H) to (B, H)."""
        if not self.causal:
            raise ValueError("a bidirectional lru cannot step: build the model with causal=True")
        dt_bl = None if dt_b is None else dt_b[:, None]
        y_bld, state = self.forward(x_bd[:, None], dt_bl=dt_bl, side=side, state=state)
        return y_bld[:, 0], state

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return lambda, (N,) or with gaps (B, L, N), and gamma B u; see :mod:`ssm_core.recurrence`."""
        decay, gain = self._over(None if dt_bl is None else dt_bl[..., None])
        b = torch.view_as_complex(self.B)
        return Recurrence(decay, gain * (x_bld.to(b.dtype) @ b.mT))

    def _forwards(
        self, u_blh: Tensor, *, gaps_bl: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        x_bln, x_bn = self._scan(u_blh, gaps_bl, state["x"] if state else None)
        return _read(x_bln, self.C) + self.D * u_blh, {"x": x_bn}

    def _both_ways(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        assert self.C_reverse is not None
        u_blh = x_bld
        after = None if gaps_bl is None else flip_valid(gaps_after(gaps_bl, lengths_b), lengths_b)
        back = flip_valid(beside.get("u_reverse", u_blh), lengths_b)
        x_bln, _ = self._scan(u_blh, gaps_bl, None)
        back_bln, _ = self._scan(back, after, None)
        y_back = flip_valid(_read(back_bln, self.C_reverse), lengths_b)
        return _read(x_bln, self.C) + y_back + self.D * u_blh, ()

    def _scan(self, u_blh: Tensor, gaps_bl: Tensor | None, x_bn: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return all states (B, L, N) and the last (B, N)."""
        decay, gain = self._over(None if gaps_bl is None else gaps_bl[..., None])
        b = torch.view_as_complex(self.B)
        return linear_scan(decay, gain * (u_blh.to(b.dtype) @ b.mT), x_bn)

    def _over(self, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return lambda^dt and gamma over gaps dt (..., 1): what keeps the states' size for any dt, gamma for 1."""
        rate, gamma = torch.exp(self.nu_log), torch.exp(self.gamma_log)
        log_lambda = torch.complex(-rate, torch.exp(self.theta_log))
        if dt is None:
            return torch.exp(log_lambda), gamma
        # The root has no slope at 0: where no time passes, neither branch may see that.
        passes = dt > 0
        some = torch.where(passes, dt, torch.ones_like(dt)).to(gamma.dtype)
        ratio = torch.sqrt(torch.expm1(-2 * some * rate) / torch.expm1(-2 * rate))
        return torch.exp(dt * log_lambda), torch.where(passes, gamma * ratio, torch.zeros_like(gamma))


def _read(x_bln: Tensor, C: Tensor) -> Tensor:
    """Return Re(C x) (B, L, H)."""
    return (x_bln @ torch.view_as_complex(C).mT).real


def build(config: LRUConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one LRU block; its two slots coincide."""
    mixer = whole(lambda width: LRU(width, config, causal=layer.causal), slot, layer.d_model)
    return ResidualBlock(mixer, layer, config.activation)
