"""The norms of the residual stream, for (B, L, D) and (B, D) alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and over time; masked elements have no part in the statistics.

    In evaluation it takes the running statistics, so that rows are independent and a model can step. Statistics are
    those of one process: several processes each use their own share of the batch.

    Args:
        d_model: Width D.
        eps: Added to the variance.
        momentum: Weight of a new batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d_model: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))

    def forward(self, x: Tensor, mask_bl: Tensor | None = None) -> Tensor:
        """Normalise (B, L, D) or (B, D); in training by the statistics of the elements where ``mask_bl`` is True."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = self._statistics(x, mask_bl)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x * scale + (self.bias - mean * scale)).to(x.dtype)

    def _statistics(self, x: Tensor, mask_bl: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.flatten(0, -2).to(self.running_mean.dtype)
        if mask_bl is None:
            weight, count = flat.new_ones(len(flat), 1), flat.new_tensor(float(len(flat)))
        else:
            weight = mask_bl.flatten()[:, None].to(flat.dtype)
            flat = torch.where(weight > 0, flat, torch.zeros_like(flat))
            count = weight.sum()
        n = count.clamp(min=1)
        mean = flat.sum(0) / n
        var = ((flat - mean).square() * weight).sum(0) / n
        with torch.no_grad():
            weight_of_batch = self.momentum * (count > 0).to(
                mean.dtype
            )  # a batch without a valid element says nothing
            self.running_mean.lerp_(mean, weight_of_batch)
            self.running_var.lerp_(var * n / (n - 1).clamp(min=1), weight_of_batch)
        return mean, var


class ScaleNorm(nn.Module):
    """One learned scale on each element's vector, divided by its root mean square (as Mega uses it).

    Args:
        d_model: Width D, not used.
        eps: Added to the mean square.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


KINDS = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "batch": BatchNorm,
    "scale": ScaleNorm,
}


def make_norm(kind: str, d_model: int) -> nn.Module:
    """Return the norm called ``layer``, ``rms``, ``batch``, ``scale`` or ``none``."""
    if kind == "none":
        return nn.Identity()
    # 1e-5 is what published models add; torch's own default is the type's epsilon.
    return KINDS[kind](d_model, **({"eps": 1e-5} if kind == "rms" else {}))


def normalise(norm: nn.Module, x: Tensor, mask_bl: Tensor | None = None) -> Tensor:
    """Apply a norm; only those that look beyond one element need the mask."""
    return norm(x, mask_bl) if isinstance(norm, BatchNorm) else norm(x)
