"""The operations that a step of Mamba carries its state by, each alone, in the form of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_core.ops import causal_conv1d_update, selective_state_update
from ssm_core.protocols import State

EXPAND, STATES, TAPS = 2, 16, 4
"""Mamba's channels for each of the model's, its states, and the length of its filters."""


class SelectiveStep(nn.Module):
    """One step of the selective scan with a gate, on operands that are the same at every step.

    Args:
        d_model: Width H of the model, whose layer has 2 H channels.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.width = EXPAND * d_model
        self.given: tuple[Tensor, ...] = ()

    def forward(self, x_bld: Tensor) -> tuple[Tensor, State]:
        """Draw operands for as many rows; return x and the state before the first step (B, 2 H, N)."""
        rows, width, device = len(x_bld), self.width, x_bld.device
        A, D = (
            -torch.arange(1.0, STATES + 1, device=device).repeat(width, 1),
            torch.ones(width, device=device),
        )
        shapes = (rows, width), (rows, width), (rows, STATES), (rows, STATES), (rows, width)
        x, dt, B, C, z = (torch.randn(shape, device=device) for shape in shapes)
        self.given = (x, 0.1 * dt.abs(), A, B, C, D, z)
        return x_bld, {"x": torch.zeros(rows, width, STATES, device=device)}

    def step(self, x_bd: Tensor, *, state: dict[str, Tensor]) -> tuple[Tensor, State]:
        """Take a step; x is not looked at."""
        x, dt, A, B, C, D, z = self.given
        y, after = selective_state_update(state["x"], x, dt, A, B, C, D, z)
        return y, {"x": after}


class ConvolutionStep(nn.Module):
    """One step of the short convolution with SiLU, on an input that is the same at every step.

    Args:
        d_model: Width H of the model, whose layer has 2 H channels.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.width = EXPAND * d_model
        self.given: tuple[Tensor, ...] = ()

    def forward(self, x_bld: Tensor) -> tuple[Tensor, State]:
        """Draw filters and an input of as many rows; return x and the state before the first step (B, W-1, 2 H)."""
        rows, width = len(x_bld), self.width
        shapes = (rows, width), (width, TAPS), (width,)
        self.given = tuple(torch.randn(shape, device=x_bld.device) for shape in shapes)
        return x_bld, {"conv": torch.zeros(rows, TAPS - 1, width, device=x_bld.device)}

    def step(self, x_bd: Tensor, *, state: dict[str, Tensor]) -> tuple[Tensor, State]:
        """Take a step; x is not looked at."""
        x, weight, bias = self.given
        y, after = causal_conv1d_update(x, state["conv"], weight, bias, "silu")
        return y, {"conv": after}


ALONE = {"selective_state_update": SelectiveStep, "causal_conv1d_update": ConvolutionStep}
"""By the name of the operation."""
