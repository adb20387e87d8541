"""The DSS layer: in every channel the kernel Re sum_n w_n (exp(dt Lambda_n) - 1) / Lambda_n exp(k dt Lambda_n).

Symbols as in the paper: H = d_model channels, N = state_size, Lambda (N,) shared by all channels, W (H, N), dt =
exp(log_dt) (H,). DSS-softmax divides each mode by its sum over the length of the sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.backbones.dss.softmax import convolve_rows, softmax_kernel
from ssm_core.backbones.dss.spec import DSSConfig
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.hippo import hippo_eigenbasis
from ssm_core.lti import diagonal_lti, refuse, two_sided
from ssm_core.ops import fft_conv, vandermonde
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid
from ssm_core.recurrence import Recurrence


class DSS(nn.Module):
    """One DSS state-space model a channel.

    Args:
        d_model: Width H.
        config: State size and version.
        causal: One direction; otherwise a second W reads the same system running backwards.
    """

    takes_dt = False

    def __init__(self, d_model: int, config: DSSConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.d_model, self.causal = d_model, causal
        self.config = config
        self.stateful = self.streaming = causal and config.version == "exp"
        if config.version != "exp":
            self.way_out = "--set backbone.version=exp"
        n = config.state_size
        self.Lambda = nn.Parameter(torch.empty(n, 2))
        self.W = nn.Parameter(torch.empty(1 if causal else 2, d_model, n, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.log_dt = nn.Parameter(torch.empty((d_model, 2) if config.sep_dt_re_im else (d_model,)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start: half of the eigenvalues of HiPPO-N of size 2N, W and D normal, steps log-uniform."""
        if self.W.is_meta:
            return
        config = self.config
        with torch.device("cpu"):
            lambda_n, _ = hippo_eigenbasis(2 * config.state_size)
            real = lambda_n.real if config.version == "softmax" else (-lambda_n.real).log()
            self.Lambda.copy_(torch.stack([real, -lambda_n.imag], 1))
            self.W.copy_(torch.randn(self.W.shape))
            self.D.copy_(torch.randn(self.d_model))
            low, high = math.log(config.dt_min), math.log(config.dt_max)
            log_dt = low + (high - low) * torch.rand(self.d_model)
            # Both steps of a channel start equal.
            self.log_dt.copy_(log_dt[:, None].expand(-1, 2) if config.sep_dt_re_im else log_dt)

    def param_hints(self) -> dict[str, Hint]:
        """Eigenvalues, W and steps learn at rates of their own and never decay; all stay in float32."""
        slow = Hint(lr_scale=self.config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        steps = Hint(lr_scale=self.config.lr_scale_dt, weight_decay=0.0, dtype=torch.float32)
        return {"Lambda": slow, "W": slow, "D": Hint(dtype=torch.float32), "log_dt": steps}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"x": (B, H, N) complex}``, zeros; the softmax version and bidirectional layers have no state."""
        if not self.stateful:
            return ()
        kind = torch.promote_types(torch.promote_types(dtype or self.W.dtype, self.W.dtype), torch.complex64)
        shape = (batch_size, self.d_model, self.W.shape[2])
        return {"x": torch.zeros(shape, device=device or self.W.device, dtype=kind)}

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
        """Convolve a sequence; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Refused: the kernel is one of equal steps.
            mask_bl: True where valid (B, L). Under DSS-softmax each row then has a kernel of its own length.
            reset_bl: True where the state is zeroed first (B, L); likewise.
            side: Not used by DSS; passing some is an error.
            state: State to go on from (causal DSS-exp only).
            x_reverse_bld: Input of the backward direction, if it is to differ (bidirectional layers only).
        """
        refuse("dss", self.causal, side, state, x_reverse_bld, dt_bl)
        if state and not self.stateful:
            raise ValueError(f"{_LENGTH} takes no state: --set backbone.version=exp")
        wide = torch.promote_types(x_bld.dtype, self.W.dtype)

        def fresh(rows: int) -> State:
            return self.init_state(rows, device=x_bld.device, dtype=wide)

        with torch.autocast(x_bld.device.type, enabled=False):
            y_bld, after = over_valid(
                self._exp if self.config.version == "exp" else self._softmax,
                x_bld.to(wide),
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=state or None,
                init_state=fresh if self.stateful else None,
                beside={"x_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
            )
        return y_bld.to(x_bld), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, H) to (B, H)."""
        if not self.causal:
            raise ValueError("a bidirectional dss cannot step: build the model with causal=True")
        if not self.stateful:
            raise ValueError(f"{_LENGTH} cannot step: --set backbone.version=exp")
        refuse("dss", True, side, None, None, dt_b)
        with torch.autocast(x_bd.device.type, enabled=False):
            x_bhn, u_bh = state["x"], x_bd.to(torch.promote_types(x_bd.dtype, self.W.dtype))
            a, z = self._system()
            b = (torch.expm1(z) / a).to(x_bhn.dtype)
            x_bhn = torch.exp(z).to(x_bhn.dtype) * x_bhn + b * u_bh[..., None]
            y_bh = (torch.view_as_complex(self.W)[0] * x_bhn).sum(-1).real + self.D * u_bh
        return y_bh.to(x_bd), {"x": x_bhn}

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence | None:
        """Return exp(dt Lambda) (H, N) and B u, nothing for the softmax version; see :mod:`ssm_core.recurrence`."""
        refuse("dss", True, side, None, None, dt_bl)
        a, z = self._system()
        exp = self.config.version == "exp"
        return Recurrence(torch.exp(z), torch.expm1(z) / a * x_bld[..., None]) if exp else None

    def _exp(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        a, z = self._system()
        # The operations add the conjugates; here there are none, so half of each sum's twofold real part.
        c = torch.view_as_complex(self.W) / 2
        b = (torch.expm1(z) / a).to(c.dtype)
        if self.causal:
            x_bhn = None if state is None else state["x"]
            y_bld, x_bhn = diagonal_lti(x_bld, z, b, c[0], self.D, x_bhn, lengths_b=lengths_b)
            return y_bld, {"x": x_bhn}
        k = vandermonde((c * b).flatten(0, 1), z.repeat(2, 1), max(x_bld.shape[1], 1)).chunk(2)
        return self._convolve(x_bld, k, beside.get("x_reverse")), ()

    def _softmax(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        a, z = self._system()
        w, length = torch.view_as_complex(self.W), max(x_bld.shape[1], 1)
        k = softmax_kernel(w, a, z, length, lengths_b).to(x_bld.dtype)  # (R, 1 or 2, H, L)
        if lengths_b is None:
            return self._convolve(x_bld, k[0].unbind(0), beside.get("x_reverse")), ()
        return convolve_rows(x_bld, k, self.D, beside.get("x_reverse"), self.config.backward_start), ()

    def _convolve(self, u_blh: Tensor, k: tuple[Tensor, ...], u_back: Tensor | None) -> Tensor:
        if self.causal:
            return fft_conv(u_blh, k[0], self.D)
        return two_sided(u_blh, k[0], k[1], self.D, u_back_blh=u_back, start=self.config.backward_start)

    def _system(self) -> tuple[Tensor, Tensor]:
        """Return Lambda (N,) and dt Lambda (H, N), in double precision."""
        real, imag = self.Lambda.double().unbind(1)
        real = -real.exp() if self.config.version == "exp" else real
        dt = self.log_dt.double().exp()
        dt_re, dt_im = dt.unbind(1) if self.config.sep_dt_re_im else (dt, dt)
        return torch.complex(real, imag), torch.complex(dt_re[:, None] * real, dt_im[:, None] * imag)


_LENGTH = "dss with version = softmax, whose kernel depends on the whole length,"


def build(config: DSSConfig, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one DSS block; its two slots coincide."""
    mixer = whole(lambda width: DSS(width, config, causal=layer.causal), slot, layer.d_model)
    return ResidualBlock(mixer, layer, config.activation)
