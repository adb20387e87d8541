"""The two state-space models of H3: the shift, which remembers the last keys, and the diagonal one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.backbones.h3.spec import H3Config
from ssm_core.discretize import discretize
from ssm_core.hippo import diagonal_start
from ssm_core.lti import diagonal_lti, refuse
from ssm_core.ops import causal_conv1d, causal_conv1d_update
from ssm_core.protocols import Hint, Side, State
from ssm_core.ragged import last_inputs, over_valid
from ssm_core.recurrence import Recurrence


class Shift(nn.Module):
    """x_t = S x_{t-1} + B u_t, y_t = C x_t + D u_t in every channel, S the matrix that shifts its argument down by one.

    Since S^N = 0 this is a filter of N taps, k_j = sum_n C_{n+j} B_n, and D is added to the first. Its state here is
    what the filter has to remember, the last N - 1 inputs.

    Args:
        d_model: Width H.
        n: States N.
    """

    def __init__(self, d_model: int, n: int) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.empty(d_model, n))
        self.C = nn.Parameter(torch.empty(d_model, n))
        self.D = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with B the first unit vector, C uniform as in a convolution of N taps, D ~ N(0, 1)."""
        self.B.zero_()
        self.B[:, 0] = 1.0
        bound = self.C.shape[1] ** -0.5
        nn.init.uniform_(self.C, -bound, bound)
        nn.init.normal_(self.D)

    def param_hints(self) -> dict[str, Hint]:
        """B does not decay; all stay in float32."""
        wide = Hint(dtype=torch.float32)
        return {"B": Hint(weight_decay=0.0, dtype=torch.float32), "C": wide, "D": wide}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"u": (B, N - 1, H)}``, zeros."""
        kind = torch.promote_types(dtype or self.C.dtype, self.C.dtype)
        shape = (batch_size, self.C.shape[1] - 1, len(self.D))
        return {"u": torch.zeros(shape, device=device or self.C.device, dtype=kind)}

    def forward(
        self, u_blh: Tensor, *, mask_bl: Tensor | None, reset_bl: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        """Filter (B, L, H) in at least the parameters' precision; masks, resets and state as in a mixer."""
        return over_valid(
            self._run, u_blh, mask_bl=mask_bl, reset_bl=reset_bl, state=state, init_state=self.init_state
        )

    def step(self, u_bh: Tensor, state: State) -> tuple[Tensor, State]:
        """Filter one element (B, H)."""
        y_bh, last = causal_conv1d_update(u_bh, state["u"], self.taps())
        return y_bh, {"u": last.to(state["u"].dtype)}

    def taps(self) -> Tensor:
        """Return the filter (H, N), the tap of the present last."""
        n = self.C.shape[1]
        # Not a product of matrices, which autocast would round.
        k = (F.pad(self.C, (0, n - 1)).unfold(1, n, 1) * self.B[:, None]).sum(2)
        return torch.cat([k[:, :1] + self.D[:, None], k[:, 1:]], 1).flip(1)

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        before = (self.init_state(len(x_bld), device=x_bld.device) if state is None else state)["u"]
        y_bld, last = causal_conv1d(x_bld, self.taps(), initial_state=before)
        if lengths_b is not None:
            last = last_inputs(before, x_bld, lengths_b)
        return y_bld, {"u": last.to(before.dtype)}


class DiagonalSSM(nn.Module):
    """x' = A x + B u, y = 2 Re(C x) + D u in every channel, A diagonal: an S4D without gaps, held by several copies.

    Args:
        d_model: Width, ``copies`` times the number of systems H: input ``i H + h`` goes through system h.
        config: State size, start, steps.
        copies: How many inputs share each system.

    Raises:
        ValueError: If ``copies`` does not divide the width.
    """

    causal = True
    streaming = True
    takes_dt = False

    def __init__(self, d_model: int, config: H3Config, copies: int = 1) -> None:
        super().__init__()
        if d_model % copies:
            raise ValueError(
                f"h3: head_dim^2 = {copies} has to divide the width of the diagonal model, {d_model}: "
                "set another backbone.head_dim"
            )
        self.d_model = d_model
        self.copies = copies
        self.config = config
        h, n = d_model // copies, config.state_size // 2
        self.A_real = nn.Parameter(torch.empty(h, n))
        self.A_imag = nn.Parameter(torch.empty(h, n))
        self.B = nn.Parameter(torch.empty(h, n, 2))
        self.C = nn.Parameter(torch.empty(h, n, 2))
        self.D = nn.Parameter(torch.empty(h))
        self.log_dt = nn.Parameter(torch.empty(h))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start A and B as S4D does, C and D normal of variance 1, steps log-uniform."""
        if self.C.is_meta:
            return
        config = self.config
        with torch.device("cpu"):
            a, b = diagonal_start(config.start, config.state_size)
            self.A_real.copy_((-a.real).log())
            self.A_imag.copy_(a.imag)
            self.B.copy_(torch.view_as_real(b))
            self.C.copy_(torch.randn(self.C.shape) * 0.5**0.5)
            self.D.copy_(torch.randn(self.D.shape))
            low, high = math.log(config.dt_min), math.log(config.dt_max)
            self.log_dt.copy_(low + (high - low) * torch.rand(self.log_dt.shape))

    def param_hints(self) -> dict[str, Hint]:
        """Eigenvalues, input weights and steps have a rate of their own and never decay; all stay in float32."""
        slow = Hint(lr_scale=self.config.lr_scale, weight_decay=0.0, dtype=torch.float32)
        output = Hint(dtype=torch.float32)
        return {"A_real": slow, "A_imag": slow, "B": slow, "log_dt": slow, "C": output, "D": output}

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"x": (B, d_model, N/2) complex}``, zeros."""
        kind = torch.promote_types(torch.promote_types(dtype or self.C.dtype, self.C.dtype), torch.complex64)
        shape = (batch_size, self.d_model, self.C.shape[1])
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
    ) -> tuple[Tensor, State]:
        """Convolve a sequence (B, L, D); see :class:`ssm_core.protocols.Mixer`."""
        refuse("h3", True, side, state, None, dt_bl)
        wide = torch.promote_types(x_bld.dtype, self.C.dtype)
        with torch.autocast(x_bld.device.type, enabled=False):
            y_bld, after = over_valid(
                self._run,
                x_bld.to(wide),
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=state or None,
                init_state=self.init_state,
            )
        return y_bld.to(x_bld.dtype), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D)."""
        refuse("h3", True, side, state, None, dt_b)
        with torch.autocast(x_bd.device.type, enabled=False):
            u = x_bd.to(torch.promote_types(x_bd.dtype, self.C.dtype)).unflatten(1, (self.copies, -1))
            x = state["x"].unflatten(1, (self.copies, -1))
            log_a, b, c = self._system()
            x = torch.exp(log_a).to(x.dtype) * x + b * u[..., None]
            y = 2 * (c * x).sum(-1).real + self.D * u
        return y.flatten(1).to(x_bd.dtype), {"x": x.flatten(1, 2)}

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return exp(dt A) (d_model, N/2) and B u; see :mod:`ssm_core.recurrence`."""
        refuse("h3", True, side, None, None, dt_bl)
        log_a, b, _ = self._system()
        a_bar, b = torch.exp(log_a).repeat(self.copies, 1), b.repeat(self.copies, 1)
        return Recurrence(a_bar, b * x_bld[..., None])

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logarithm of A's discrete form, in double precision, B's, and C, each (H, N/2)."""
        kind = self.config.discretization
        a = torch.complex(-self.A_real.double().exp(), self.A_imag.double())
        z = self.log_dt.double().exp()[:, None]
        _, gain = discretize(a, z, kind)
        z = z * a
        log_a = z if kind == "zoh" else torch.log((2 + z) / (2 - z))
        b, c = torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        return log_a, gain.to(b.dtype) * b, c

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        """Copies are as good as rows: (B, L, copies H) runs as (B copies, L, H)."""
        batch, length, width = x_bld.shape
        if length == 0:
            return x_bld, self.init_state(batch, device=x_bld.device) if state is None else state
        copies = self.copies
        u = x_bld.unflatten(2, (copies, -1)).transpose(1, 2).flatten(0, 1)
        x = None if state is None else state["x"].reshape(batch * copies, width // copies, -1)
        if lengths_b is not None:
            lengths_b = lengths_b.repeat_interleave(copies)
        y, x = diagonal_lti(u, *self._system(), self.D, x, lengths_b=lengths_b)
        y_bld = y.unflatten(0, (batch, copies)).transpose(1, 2).flatten(2)
        return y_bld, {"x": x.unflatten(0, (batch, copies)).flatten(1, 2)}
