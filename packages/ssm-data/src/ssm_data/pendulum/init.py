"""Starting weights as the S5 authors had them: Flax's defaults."""

from __future__ import annotations

import math

from torch import nn

CUT = 0.87962566103423978
"""Standard deviation of a standard normal cut at two; dividing by it gives the wanted one."""


def lecun_normal_(layer: nn.Linear | nn.Conv2d) -> None:
    """Fill in place: weights from a normal cut at two standard deviations, variance 1 / fan-in; biases zero."""
    std = math.sqrt(1 / layer.weight[0].numel()) / CUT
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def dense(n_in: int, n_out: int) -> nn.Linear:
    """Return a linear layer so filled."""
    layer = nn.Linear(n_in, n_out)
    lecun_normal_(layer)
    return layer
