"""Where inputs are read: the nominal grid 0, 1, 2, ... in steps, and what becomes of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssm_smr.nss.spec import NSSConfig


def generator(seed: int, stream: int) -> torch.Generator:
    """Return a generator for one of the things that a seed decides, independent of the others."""
    return torch.Generator().manual_seed(1_000_003 * seed + stream)


def places(config: NSSConfig, length: int, draw: int = 0) -> Tensor:
    """Return the perturbed sampling points (length,), in steps, float64; the nominal ones are 0, 1, 2, ...

    Args:
        config: Kind, size and seed of the grid.
        length: Number of points.
        draw: Which draw of a random grid.
    """
    nominal, size = torch.arange(length, dtype=torch.float64), config.amount
    rng = generator(config.seed, 100 + draw)
    if config.grid == "jitter":
        return nominal + size * (2 * torch.rand(length, generator=rng, dtype=torch.float64) - 1)
    if config.grid == "stretch":
        return nominal * size
    if config.grid == "rate":
        return nominal / size
    if size == 0:
        return nominal
    # Between two points that are kept, the number left out is geometric.
    left_out = torch.log1p(-torch.rand(length, generator=rng, dtype=torch.float64)) / math.log(size)
    gaps = 1 + left_out.floor()
    return gaps.cumsum(0) - gaps[0]


def signal(config: NSSConfig, place: Tensor) -> Tensor:
    """Return the sum of sine waves (L,) at points given in steps (L,)."""
    hertz = torch.tensor(config.signal, dtype=torch.float64)
    return torch.sin(2 * math.pi * hertz * config.step * place[:, None]).sum(1)


def interpolate(x_bld: Tensor, place: Tensor) -> Tensor:
    """Return x (B, L, D) read between its elements at points in steps (L,); beyond the ends it stays what it is."""
    place = place.clamp(0, x_bld.shape[1] - 1)
    left = place.floor().long()
    right = (left + 1).clamp(max=x_bld.shape[1] - 1)
    share = (place - left).to(x_bld)[:, None]
    return (1 - share) * x_bld[:, left] + share * x_bld[:, right]
