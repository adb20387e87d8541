"""The Gaussian head: mean and variance of (sin, cos), and its likelihood (1,984 parameters at width 30)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_data.pendulum.encoder import HIDDEN
from ssm_data.pendulum.init import dense

FLOOR = 1e-6
"""Least variance in the likelihood."""


class Gaussian(NamedTuple):
    """Independent normal distributions.

    Attributes:
        mean: (B, L, 2).
        variance: (B, L, 2), positive.
    """

    mean: Tensor
    variance: Tensor


class GaussianHead(nn.Module):
    """Two small networks, one for the mean and one for the variance.

    Args:
        d_model: Width of the model.
        d_out: Number of values to predict.
    """

    def __init__(self, d_model: int, d_out: int = 2) -> None:
        super().__init__()
        self.mean = nn.Sequential(dense(d_model, HIDDEN), nn.Tanh(), dense(HIDDEN, d_out))
        self.variance = nn.Sequential(dense(d_model, HIDDEN), nn.Tanh(), dense(HIDDEN, d_out))

    def forward(self, y_bld: Tensor, batch: object = None) -> Gaussian:
        """Return mean and variance (B, L, d_out) of features (B, L, d_model); the batch is not looked at."""
        return Gaussian(self.mean(y_bld), elu_plus_one(self.variance(y_bld)))


def elu_plus_one(v: Tensor) -> Tensor:
    """Return exp(v) where v < 0 and v + 1 elsewhere: positive, smooth, and exact far below zero."""
    return torch.where(v < 0, torch.exp(v.clamp(max=0)), v + 1)


def gaussian_nll(out: Gaussian, targets_bld: Tensor) -> Tensor:
    """Return the negative log likelihood of each element (B, L), summed over the last axis; in at least float32."""
    kind = torch.promote_types(out.mean.dtype, torch.float32)
    variance = out.variance.to(kind).clamp_min(FLOOR)
    error = targets_bld.to(kind) - out.mean.to(kind)
    return 0.5 * (torch.log(variance) + error**2 / variance + math.log(2 * math.pi)).sum(-1)
