"""From frames to the model's width, one frame at a time.

Images go through the CNN of CRU and S5 (5,820 parameters at width 30), components through two dense layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ssm_core.protocols import Batch
from ssm_data.pendulum.components import COMPONENTS
from ssm_data.pendulum.init import dense, lecun_normal_
from ssm_data.pendulum.trunk import CHANNELS, FEATURES, Weights, trunk

HIDDEN = 30
"""Width between the convolutions and the model, and inside the heads."""


class FrameEncoder(nn.Module):
    """Conv 5x5, pool, conv 3x3 of stride 2, pool, dense to 30, ReLU, dense to the model's width.

    Args:
        d_model: Width of the model.
        append_gap: Give the last layer the gap before each frame as one more feature.
    """

    def __init__(self, d_model: int, append_gap: bool = False) -> None:
        super().__init__()
        self.append_gap = append_gap
        self.conv1 = nn.Conv2d(1, CHANNELS, 5, padding=2)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        for layer in (self.conv1, self.conv2):
            lecun_normal_(layer)
        self.hidden = dense(FEATURES, HIDDEN)
        self.out = dense(HIDDEN + append_gap, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Encode ``batch.inputs``, uint8 (B, L, 24, 24), as (B, L, d_model)."""
        frames = batch.inputs
        weights = cast(Weights, (self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias))
        features = trunk(frames.flatten(0, 1), weights).unflatten(0, frames.shape[:2])
        x_bld = torch.relu(self.hidden(features))
        return self.out(_with_gap(x_bld, batch) if self.append_gap else x_bld)


class ComponentsEncoder(nn.Module):
    """Dense from the components to 60, ReLU, to 30, ReLU, dense to the model's width.

    Args:
        d_model: Width of the model.
        append_gap: Give the last layer the gap before each frame as one more feature.
    """

    def __init__(self, d_model: int, append_gap: bool = False) -> None:
        super().__init__()
        self.append_gap = append_gap
        self.wide = dense(COMPONENTS, 2 * HIDDEN)
        self.hidden = dense(2 * HIDDEN, HIDDEN)
        self.out = dense(HIDDEN + append_gap, d_model)

    def forward(self, batch: Batch) -> Tensor:
        """Encode ``batch.inputs``, float32 (B, L, 48), as (B, L, d_model)."""
        x_bld = torch.relu(self.wide(batch.inputs.to(self.wide.weight.dtype)))
        x_bld = torch.relu(self.hidden(x_bld))
        return self.out(_with_gap(x_bld, batch) if self.append_gap else x_bld)


def _with_gap(x_bld: Tensor, batch: Batch) -> Tensor:
    gap_bl = gaps(batch.extra["time_points"]).to(x_bld.dtype)
    return torch.cat([x_bld, gap_bl[..., None]], dim=-1)


def gaps(time_points_bl: Tensor) -> Tensor:
    """Return the gap before each time point (B, L) in frames, float32; the first is 1 by convention, wherever it is."""
    return torch.diff(time_points_bl, dim=1, prepend=time_points_bl[:, :1] - 1).to(torch.float32)
