"""The multi-dimensional damped moving average of Mega: several leaky integrators a channel, and what they sum to.

In every channel, for n = 1, ..., N (Ma et al. 2023, eq. 3 to 5, in the letters of the original code):

    p = sigmoid(delta),  q = 1 - p sigmoid(alpha),  h_k = q h_{k-1} + p beta x_k,
    y_k = silu( sum_n gamma h_k / sqrt(N) + omega x_k ).

A gap g before an element is g steps over which its input is held: q becomes q^g, and p beta becomes
p beta (1 - q^g) / (1 - q). So a gap of 1 is the recurrence above, whole gaps repeat it, and a gap of 0 does nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssm_core.discretize import phi_1
from ssm_core.lti import diagonal_lti, equal_steps, refuse, two_sided
from ssm_core.ops import selective_scan, vandermonde
from ssm_core.protocols import Hint, Side, State
from ssm_core.ragged import flip_valid, gaps_after, over_valid
from ssm_core.recurrence import Recurrence


class EMA(nn.Module):
    """A damped moving average with N integrators a channel, its skip connection and its activation.

    With equal steps it is a convolution by FFT, otherwise a scan. A bidirectional one has parameters of its own for the
    reverse direction, and both directions see the element itself.

    Args:
        d_model: Width D.
        n: Integrators N of each channel.
        causal: One direction; otherwise two.
        truncated: Draw the start from normals cut off at two deviations, as SeqBoat does.
    """

    takes_dt = True

    def __init__(self, d_model: int, n: int = 16, *, causal: bool = True, truncated: bool = False) -> None:
        super().__init__()
        self.d_model = d_model
        self.causal = causal
        self.streaming = causal
        self.truncated = truncated
        shape = (1 if causal else 2, d_model, n)
        self.delta = nn.Parameter(torch.empty(shape))
        self.alpha = nn.Parameter(torch.empty(shape))
        self.beta = nn.Parameter(torch.empty(shape))
        self.gamma = nn.Parameter(torch.empty(shape))
        self.omega = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw delta, alpha ~ N(0, 0.2), beta ~ +-1 in turn + N(0, 0.02), gamma, omega ~ N(0, 1); deviations given."""
        if self.delta.is_meta:
            return
        scales = (
            (self.delta, 0.2),
            (self.alpha, 0.2),
            (self.beta, 0.02),
            (self.gamma, 1.0),
            (self.omega, 1.0),
        )
        for parameter, std in scales:
            draw_normal(parameter, std, self.truncated)
        self.beta[..., ::2] += 1.0
        self.beta[..., 1::2] -= 1.0

    def param_hints(self) -> dict[str, Hint]:
        """All stay in float32; the paper trains them as any other weight, with its decay."""
        return dict.fromkeys(("delta", "alpha", "beta", "gamma", "omega"), Hint(dtype=torch.float32))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """Return ``{"h": (B, D, N)}``, zeros; a bidirectional average has no state."""
        if not self.causal:
            return ()
        kind = torch.promote_types(dtype or self.delta.dtype, self.delta.dtype)
        shape = (batch_size, *self.delta.shape[1:])
        return {"h": torch.zeros(shape, device=device or self.delta.device, dtype=kind)}

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
        """Average a sequence; see :class:`ssm_core.protocols.Mixer`.

        After a call with a mask the state also holds ``gap`` (B,): the time since each row's last valid element.

        Args:
            x_bld: Input (B, L, D).
            dt_bl: Gap before each element (B, L): that many steps, with the element's input held.
            mask_bl: True where valid (B, L).
            reset_bl: True where the state is zeroed first (B, L).
            side: Not used; passing some is an error.
            state: State to go on from (causal only).
            x_reverse_bld: Input of the reverse direction, if it is to differ (bidirectional only).
        """
        refuse("moving average", self.causal, side, state, x_reverse_bld)
        wide = torch.promote_types(x_bld.dtype, self.delta.dtype)
        with torch.autocast(x_bld.device.type, enabled=False):
            y_bld, after = over_valid(
                self._run if self.causal else self._run_both_ways,
                x_bld.to(wide),
                dt_bl=dt_bl,
                mask_bl=mask_bl,
                reset_bl=reset_bl,
                state=state or None,
                init_state=self.init_state if self.causal else None,
                takes_dt=True,
                beside={"x_reverse": None if x_reverse_bld is None else x_reverse_bld.to(wide)},
            )
            return y_bld.to(x_bld.dtype), after

    def step(
        self, x_bd: Tensor, *, dt_b: Tensor | None = None, side: Side | None = None, state: State
    ) -> tuple[Tensor, State]:
        """Advance one element: (B, D) to (B, D), in O(D N)."""
        refuse("moving average", True, side, None, None)
        if not self.causal:
            raise ValueError("a bidirectional moving average cannot step: build the model with causal=True")
        with torch.autocast(x_bd.device.type, enabled=False):
            x = x_bd.to(torch.promote_types(x_bd.dtype, self.delta.dtype))
            log_q, weight, c = self._coefficients(0)
            gap = state.get("gap")
            if dt_b is not None or gap is not None:
                dt = x.new_ones(len(x)) if dt_b is None else dt_b.to(x)
                dt = (dt if gap is None else dt + gap.to(x))[:, None, None]
                weight = weight * dt * phi_1(dt * log_q) / phi_1(log_q)
                log_q = dt * log_q
            h = torch.exp(log_q) * state["h"] + weight * x[..., None]
            y_bd = F.silu((c * h).sum(-1) + self.omega * x)
            return y_bd.to(x_bd.dtype), {"h": h}

    def recurrence(
        self, x_bld: Tensor, *, dt_bl: Tensor | None = None, side: Side | None = None
    ) -> Recurrence:
        """Return q, (D, N) or with gaps (B, L, D, N), and p beta x; see :mod:`ssm_core.recurrence`."""
        refuse("moving average", True, side, None, None)
        log_q, weight, _ = self._coefficients(0)
        if dt_bl is not None:
            dt = dt_bl[..., None, None]
            log_q, weight = dt * log_q, weight * dt * phi_1(dt * log_q) / phi_1(log_q)
        return Recurrence(torch.exp(log_q), weight * x_bld[..., None])

    def _coefficients(self, way: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return log q, p beta and gamma / sqrt(N), each (D, N), of one direction.

        1 - p s, with s = sigmoid(alpha), is (1 - p) + p (1 - s): the logarithm of this form never runs into that of 0.
        """
        delta, alpha = self.delta[way], self.alpha[way]
        log_q = torch.logaddexp(F.logsigmoid(-delta), F.logsigmoid(delta) + F.logsigmoid(-alpha))
        c = self.gamma[way] / math.sqrt(delta.shape[-1])
        return log_q, torch.sigmoid(delta) * self.beta[way], c

    def _run(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        h = None if state is None else state["h"]
        if x_bld.shape[1] == 0:
            return x_bld, self.init_state(len(x_bld), device=x_bld.device) if h is None else {"h": h}
        if equal_steps(gaps_bl, lengths_b):
            log_q, weight, c = self._coefficients(0)
            y_bld, h = diagonal_lti(x_bld, log_q, weight, c, self.omega, h, lengths_b=lengths_b, conj=False)
        else:
            assert gaps_bl is not None
            y_bld, h = self._scan(0, x_bld, gaps_bl, self.omega, h)
        return F.silu(y_bld), {"h": h}

    def _scan(
        self, way: int, x_bld: Tensor, gaps_bl: Tensor, omega: Tensor | None, h: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one direction under gaps: as a system held over each gap, whose input weight at a gap of 1 is p beta."""
        log_q, weight, c = self._coefficients(way)
        gaps = gaps_bl.to(x_bld)[..., None].expand_as(x_bld)
        held = weight / phi_1(log_q)
        return selective_scan(x_bld, gaps, log_q, held, c, omega, initial_state=h, discretization="zoh")

    def _run_both_ways(
        self,
        x_bld: Tensor,
        *,
        gaps_bl: Tensor | None,
        lengths_b: Tensor | None,
        state: State | None,
        **beside: Tensor,
    ) -> tuple[Tensor, State]:
        length, x_reverse = x_bld.shape[1], beside.get("x_reverse")
        if length == 0:
            return x_bld, ()
        if equal_steps(gaps_bl, lengths_b):
            k, k_back = (
                vandermonde(c * weight, log_q, length, conj=False)
                for log_q, weight, c in map(self._coefficients, (0, 1))
            )
            y_bld = two_sided(x_bld, k, k_back, self.omega, u_back_blh=x_reverse, start="same")
            return F.silu(y_bld), ()
        assert gaps_bl is not None
        y_bld, _ = self._scan(0, x_bld, gaps_bl, self.omega)
        back = flip_valid(x_bld if x_reverse is None else x_reverse, lengths_b)
        y_back, _ = self._scan(1, back, flip_valid(gaps_after(gaps_bl, lengths_b), lengths_b), None)
        return F.silu(y_bld + flip_valid(y_back, lengths_b)), ()


def draw_normal(tensor: Tensor, std: float, truncated: bool = False) -> None:
    """Fill a tensor from N(0, std^2), or from it cut off at two deviations; on the meta device do nothing."""
    if tensor.is_meta:
        return
    if truncated:
        nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.normal_(tensor, std=std)
