"""The linear map from the tokens of a window to a point (eqs. 12a, 12b), with parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_core.protocols import Hint
from ssm_serpent.index import Index
from ssm_serpent.ops import encode


class Encoder(nn.Module):
    """x~_k = M [x_{s_k+j}; e(d_{k,j})]_{j < W} + c with e_g(d) = exp(-gamma_g (d - mu_g)^2).

    Args:
        width: D, channels of a token.
        out: h, channels of a point.
        window: W, slots.
        basis: G, Gaussians.
        lowest: Smallest distance that comes up; the centres mu start uniformly between it and the next.
        highest: Largest.
        train_width: Learn gamma; otherwise it stays 1 / (2 s^2), s the spacing of G Gaussians side by side.

    Source: eqs. (12a) and (12b), SeRpEnt, arXiv 2501.11729; the paper leaves the widths open.
    """

    def __init__(
        self,
        width: int,
        out: int,
        window: int,
        basis: int,
        *,
        lowest: float,
        highest: float,
        train_width: bool = False,
    ) -> None:
        super().__init__()
        self.range = lowest, highest
        self.weight = nn.Parameter(torch.empty(out, window, width + basis))
        self.bias = nn.Parameter(torch.empty(out))
        self.centres = nn.Parameter(torch.empty(basis))
        self.log_gamma = nn.Parameter(torch.empty(basis)) if train_width else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw M and c as a linear layer of W (D + G) inputs does, and the centres."""
        bound = math.prod(self.weight.shape[1:]) ** -0.5
        self.weight.uniform_(-bound, bound)
        self.bias.uniform_(-bound, bound)
        self.centres.uniform_(*self.range)
        if self.log_gamma is not None:
            self.log_gamma.fill_(self.log_gamma_start)

    @property
    def log_gamma_start(self) -> float:
        """log(1 / (2 s^2)), s = (highest - lowest) / G, but at least 1/4."""
        lowest, highest = self.range
        spacing = max((highest - lowest) / len(self.centres), 0.25)
        return -math.log(2 * spacing**2)

    def param_hints(self) -> dict[str, Hint]:
        """Centres and widths do not decay and stay in float32."""
        kept = Hint(weight_decay=0.0, dtype=torch.float32)
        return {"centres": kept} if self.log_gamma is None else {"centres": kept, "log_gamma": kept}

    def forward(self, x_bld: Tensor, index: Index) -> Tensor:
        """Make the points (B, K, h) of tokens (B, L, D); rows that are not in use are zero."""
        log_gamma = self.log_gamma
        if log_gamma is None:
            log_gamma = torch.full_like(self.centres, self.log_gamma_start)
        at = index.start_bk, index.inside_bkw, index.distance_bkw
        return encode(x_bld, *at, self.weight, self.bias, self.centres, log_gamma)
