"""The S4 layer: in every channel x' = A x + B u, y = 2 Re(C x) + D u, with A diagonal plus low rank.

Symbols as in the paper: H = d_model channels, N = state_size of which N/2 are stored, A = Lambda - P P^*, dt =
exp(inv_dt) (H,). A, P and B come in S = n_ssm copies, and channel h has copy h mod S. The bilinear step throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.backbones.s4.powers import Powers, powers
from ssm_core.backbones.s4.spec import S4Config
from ssm_core.backbones.s4.system import System, apply, as_complex, as_real
from ssm_core.block import ResidualBlock
from ssm_core.compose import whole
from ssm_core.feed_forward import FeedForward
from ssm_core.hippo import diagonal_start, dplr_start
from ssm_core.lti import refuse, two_sided
from ssm_core.ops import fft_conv
from ssm_core.protocols import Block, Hint, LayerInfo, Side, SlotFn, State
from ssm_core.ragged import over_valid
from ssm_core.recurrence import Recurrence

_LEAST_DECAY = (
    1e-4  # of a start whose eigenvalues lie on the imaginary axis: the real part is stored as a logarithm
)


class S4(nn.Module):
    """One S4 state-space model a channel.

    Args:
        d_model: Width H.
        config: State size and start.
        causal: One direction; otherwise a second C reads the same system running backwards.

    Raises:
        ValueError: If ``n_ssm`` does not divide the width, or is odd where two starts take turns.
    """

    takes_dt = False

    def __init__(self, d_model: int, config: S4Config, *, causal: bool = True) -> None:
        super().__init__()
        self.d_model, self.causal, self.streaming = d_model, causal, causal
        self.config = config
        copies, n, rank = config.n_ssm or d_model, config.state_size // 2, config.rank or config.own_rank
        if d_model % copies:
            raise ValueError(f"s4: n_ssm = {copies} copies of A, P and B have to divide the width, {d_model}")
        self.A_real = nn.Parameter(torch.empty(copies, n))
        self.A_imag = nn.Parameter(torch.empty(copies, n))
        self.P = nn.Parameter(torch.empty(rank, copies, n, 2))
        self.B = nn.Parameter(torch.empty(copies, n, 2))
        self.C = nn.Parameter(torch.empty(1 if causal else 2, d_model, n, 2))
        self.D = nn.Parameter(torch.empty(d_model))
        self.inv_dt = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the start: A, P and B by the knob ``start``, C and D normal of variance 1, steps log-uniform."""
        if self.C.is_meta:
            return
        config = self.config
        kinds = ("legs", "fout") if config.start == "hippo" else (config.start,)
        with torch.device("cpu"):
            for copy in range(len(self.B)):
                a, p, b = draw_start(kinds[copy % len(kinds)], config.state_size, len(self.P))
                if config.b_clip is not None:
                    b = torch.complex(b.real, b.imag.clamp(-config.b_clip, config.b_clip))
                self.A_real[copy].copy_((-a.real).clamp(min=_LEAST_DECAY).log())
                self.A_imag[copy].copy_(-a.imag)
                self.P[:, copy].copy_(torch.view_as_real(p))
                self.B[copy].copy_(torch.view_as_real(b))
            self.C.copy_(torch.randn(self.C.shape) * 0.5**0.5)
            self.D.copy_(torch.randn(self.d_model))
            low, high = math.log(config.dt_min), math.log(config.dt_max)
            self.inv_dt.copy_(low + (high - low) * torch.rand(self.d_model))

    def param_hints(self) -> dict[str, Hint]:
        """A, P, B and steps learn at rates of their own and never decay; all stay in float32."""
        config, wide = self.config, torch.float32
        slow = Hint(lr_scale=config.lr_scale, weight_decay=0.0, dtype=wide)
        steps = Hint(lr_scale=config.lr_scale_dt, weight_decay=0.0, dtype=wide)
        free = Hint(dtype=wide)
        c = free if config.lr_scale_c is None else Hint(config.lr_scale_c, weight_decay=0.0, dtype=wide)
        slows = dict.fromkeys(("A_real", "A_imag", "P", "B"), slow)
        return slows | {"C": c, "D": free, "inv_dt": steps}

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
        """Convolve a sequence; see :class:`ssm_core.protocols.Mixer`.

        Args:
            x_bld: Input u (B, L, H).
            dt_bl: Refused: the kernel is one of equal steps.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used by S4; passing some is an error.
            state: State to go on from (causal layers only).
            x_reverse_bld: Input of the backward direction, if it is to differ (bidirectional layers only).
        """
        refuse("s4", self.causal, side, state, x_reverse_bld, dt_bl)
        wide = torch.promote_types(x_bld.dtype, self.C.dtype)

        def fresh(rows: int) -> State:
            return self.init_state(rows, device=x_bld.device, dtype=wide)

        with torch.autocast(x_bld.device.type, enabled=False):
            y_bld, after = over_valid(
                self._run,
                x_bld.to(wide),
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=state or None,
                init_state=fresh if self.causal else None,
                beside={"x_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
            )
        return y_bld.to(x_bld), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element, (B, H) to (B, H), in O(N) a channel."""
        if not self.causal:
            raise ValueError("a bidirectional s4 cannot step: build the model with causal=True")
        refuse("s4", True, side, None, None, dt_b)
        with torch.autocast(x_bd.device.type, enabled=False):
            x_bhn, u_bh = state["x"], x_bd.to(torch.promote_types(x_bd.dtype, self.C.dtype))
            system, kind = self.system(), state["x"].dtype
            d, u, v, b = (each.to(kind) for each in (*system.woodbury(), system.dt[:, None] * system.b))
            x_bhn = apply(d, u, v, 2 * x_bhn + b * u_bh[..., None]) - x_bhn
            y_bh = 2 * (torch.view_as_complex(self.C)[0] * x_bhn).sum(-1).real + self.D * u_bh
        return y_bh.to(x_bd), {"x": x_bhn}

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return the discrete A over the reals, (H, N, N), and B u; see :mod:`ssm_core.recurrence`."""
        refuse("s4", True, side, None, None, dt_bl)
        a_bar, b_bar = self.system().matrices()
        return Recurrence(a_bar, b_bar * x_bld[..., None], dense=True)

    def system(self) -> System:
        """Return the continuous system of every channel and its step, in double precision."""
        a = torch.complex(-self.A_real.double().exp(), -self.A_imag.double())
        p = torch.view_as_complex(self.P.double()).transpose(0, 1)
        b = torch.view_as_complex(self.B.double())
        times = self.d_model // len(a)
        dt = self.inv_dt.double().exp() * self.config.rate
        return System(a.repeat(times, 1), p.repeat(times, 1, 1), b.repeat(times, 1), dt)

    def kernel(self, length: int) -> Tensor:
        """Return the impulse response (1 or 2, H, length), in double precision: the second runs backwards."""
        system = self.system()
        return self._kernel(system, powers(system, length))

    def _kernel(self, system: System, a: Powers) -> Tensor:
        """What is cut off at the end is taken from C on the fly: C itself is the parameter, at any length."""
        return system.kernel(as_complex(a.cut(self._c())).conj() / 2, a.length)

    def _c(self) -> Tensor:
        """Return 2 Re(C .) as weights of the real state (1 or 2, H, N), in double precision."""
        return 2 * as_real(torch.view_as_complex(self.C.double()).conj())

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        u_blh, system, length = x_bld, self.system(), x_bld.shape[1]
        if length == 0 and state is not None:
            return u_blh, state
        a = powers(system, max(length, 1))
        k = self._kernel(system, a).to(u_blh.dtype)
        if not self.causal:
            back, start = beside.get("x_reverse"), self.config.backward_start
            return two_sided(u_blh, k[0], k[1], self.D, u_back_blh=back, start=start), ()
        y_blh = fft_conv(u_blh, k[0], self.D)
        if length == 0:
            return y_blh, self.init_state(len(u_blh), device=u_blh.device, dtype=u_blh.dtype)
        x = a.last_state(u_blh, system.inputs(), lengths_b)
        if state is not None:
            before = as_real(state["x"]).to(u_blh.dtype)
            y_blh = y_blh + a.echo(before, self._c()[0])
            steps = torch.full_like(before[:, 0, 0], length).long() if lengths_b is None else lengths_b
            x = x + a.after(before, steps)
        return y_blh, {"x": as_complex(x)}


def draw_start(kind: str, n: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return Lambda (N/2,), P (rank, N/2) and B (N/2,), complex128, of one of the starts of S4.

    The low-rank part of the diagonal starts is drawn, complex normal of variance 1, of the rank asked for; that of the
    others has its own.
    """
    if kind.startswith("diag-"):
        a, b = diagonal_start(kind.removeprefix("diag-"), n)
        return a, torch.randn(rank, n // 2, dtype=torch.complex128), b
    return dplr_start(kind, n)


def build(config: S4Config, layer: LayerInfo, slot: SlotFn) -> Block:
    """Build one S4 block; its two slots coincide."""
    mixer = whole(lambda width: S4(width, config, causal=layer.causal), slot, layer.d_model)
    after = None
    if config.ffn_every and (layer.index + 1) % config.ffn_every == 0:
        after = FeedForward(
            layer.d_model,
            4 * layer.d_model,
            norm=layer.norm,
            prenorm=layer.prenorm,
            dropout=layer.dropout,
            tie_dropout=layer.tie_dropout,
        )
    return ResidualBlock(mixer, layer, config.activation, drop_mixed=True, then=after)
