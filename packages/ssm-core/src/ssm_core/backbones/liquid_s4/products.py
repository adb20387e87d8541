"""Sums over products of past inputs: damped by a diagonal system, or not."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core.ops import linear_scan


def of_all_orders(
    u_blh: Tensor, a: Tensor, b: Tensor, state: Tensor, *, bounded: bool
) -> tuple[Tensor, Tensor]:
    """Run x_k = (a + b u_k) x_{k-1} + b u_k.

    Args:
        u_blh: Inputs u (B, L, H), real.
        a: Decays (H, N) or (B, L, H, N), complex.
        b: Input weights, of the same shapes.
        state: x before the first element (B, H, N).
        bounded: Divide a + b u by its modulus where that is above 1.

    Returns:
        x (B, L, H, N), and the last (B, H, N).
    """
    inflow = b * u_blh[..., None]
    transition = a + inflow
    if bounded:
        transition = transition / transition.abs().clamp(min=1.0)
    return linear_scan(transition, inflow, state)


def up_to_order(u_blh: Tensor, a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run the same without the products of more than P inputs: one scan for each number p = 1, ..., P of inputs.

    x^p_k = a x^p_{k-1} + b u_k x^{p-1}_{k-1}, with 1 in the place of x^0.

    Args:
        u_blh: Inputs u (B, L, H), real.
        a: Decays (H, N) or (B, L, H, N), complex.
        b: Input weights, of the same shapes.
        state: x^1, ..., x^P before the first element (B, P, H, N).

    Returns:
        The sum over p (B, L, H, N), and the last x^1, ..., x^P (B, P, H, N).
    """
    inflow = b * u_blh[..., None]
    total, before, last = torch.zeros_like(inflow), None, []
    for start in state.unbind(1):
        x, end = linear_scan(a, inflow if before is None else inflow * before, start)
        before = torch.cat([start[:, None], x], 1)[:, :-1]
        total = total + x
        last.append(end)
    return total, torch.stack(last, 1)


def running_sums(u_blh: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elementary symmetric polynomials of the inputs so far: e^p_k = e^p_{k-1} + u_k e^{p-1}_{k-1}, e^0 = 1.

    Args:
        u_blh: Inputs u (B, L, H).
        start: e^1, ..., e^P before the first element (B, P, H), float64: they grow as k^p.

    Returns:
        e^1, ..., e^P (B, L, P, H), and the last (B, P, H), float64.
    """
    u, before, orders = u_blh.to(start.dtype), None, []
    for first in start.unbind(1):
        e = first[:, None] + torch.cumsum(u if before is None else u * before, 1)
        before = torch.cat([first[:, None], e], 1)[:, :-1]
        orders.append(e)
    sums = torch.stack(orders, 2)
    return sums, sums[:, -1] if u.shape[1] else start
