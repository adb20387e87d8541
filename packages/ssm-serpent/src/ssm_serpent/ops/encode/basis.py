"""The Gaussian features of the distances (eq. 12b) and their derivatives, on any device.

They are W G numbers a point beside the W D of the tokens: small, so every backend shares this form of them.
"""

import torch
from torch import Tensor


def features(distance_bkw: Tensor, inside_bkw: Tensor, centres: Tensor, log_gamma: Tensor) -> Tensor:
    """e_g(d) = exp(-gamma_g (d - mu_g)^2) of every slot (B, K, W, G); 0 in slots that hold no token."""
    gap_bkwg, held = _gaps(distance_bkw, inside_bkw, centres)
    return gap_bkwg.square_().mul_(-log_gamma.exp()).exp_().masked_fill_(~held, 0)


def features_backward(
    grad_bkwg: Tensor, distance_bkw: Tensor, inside_bkw: Tensor, centres: Tensor, log_gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the distances (B, K, W), the centres (G,) and log_gamma (G,)."""
    gap_bkwg, held = _gaps(distance_bkw, inside_bkw, centres)
    gamma = log_gamma.exp()
    e_bkwg = torch.exp(-gamma * gap_bkwg.square()).mul_(grad_bkwg).masked_fill_(~held, 0)
    slope_bkwg = (gap_bkwg * e_bkwg).mul_(-2 * gamma)
    grad_log_gamma = (slope_bkwg * gap_bkwg).sum((0, 1, 2)) / 2
    return slope_bkwg.sum(3), -slope_bkwg.sum((0, 1, 2)), grad_log_gamma


def _gaps(distance_bkw: Tensor, inside_bkw: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """d - mu (B, K, W, G), and which of them count (B, K, W, 1)."""
    held = inside_bkw[..., None]
    return distance_bkw.masked_fill(~inside_bkw, 0)[..., None] - centres, held
