"""Where an element stands in its sequence: its number among the valid ones, as an angle or as a vector.

All angles are computed in float64: at position 10^6 a float32 angle would be wrong by several percent of a radian.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x_blhe: Tensor, positions: Tensor, base: float) -> Tensor:
    """Turn pairs of channels by angles that grow with the position (rotary positions, arXiv 2104.09864).

    Channel i < E/2 and channel i + E/2 are a pair, turned by ``position * base^(-2 i / E)``, so that the product of two
    turned vectors depends on their distance only. With an odd E the last channel is left as it is.

    Args:
        x_blhe: Queries or keys (B, L, heads, E).
        positions: Number of valid elements before each (B, L) or (1, L).
        base: Base of the wavelengths.
    """
    half = x_blhe.shape[-1] // 2
    if half == 0:
        return x_blhe
    wide = torch.promote_types(x_blhe.dtype, torch.float32)
    angle = _angles(positions, half, base)[:, :, None]
    cos, sin = angle.cos().to(wide), angle.sin().to(wide)
    first, second, rest = x_blhe.to(wide).split([half, half, x_blhe.shape[-1] - 2 * half], -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1).to(x_blhe.dtype)


def sinusoids(positions: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """Return sines, then cosines, of the position at falling frequencies (arXiv 1706.03762), float64.

    Args:
        positions: Positions (B, L).
        width: Number of channels D.
        base: Base of the wavelengths.

    Returns:
        (B, L, D).
    """
    angle = _angles(positions, (width + 1) // 2, base)
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :width]


def _angles(positions: Tensor, count: int, base: float) -> Tensor:
    index = torch.arange(count, device=positions.device, dtype=torch.float64)
    return positions.double()[..., None] * base ** (-index / count)


def valid_positions(
    like_bl: Tensor, mask_bl: Tensor | None, reset_bl: Tensor | None, before_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Number the valid elements of each row, from 0 again after a reset.

    Args:
        like_bl: Anything (B, L), for its shape and device.
        mask_bl: True where valid (B, L); None if all are.
        reset_bl: True where a sequence begins (B, L); None if nowhere.
        before_b: Number of valid elements in what came before (B,), or None.

    Returns:
        positions (B, L), anything from 0 up at masked elements, and the number of valid elements in the sequence that
        is open at the end (B,).
    """
    valid = torch.ones_like(like_bl, dtype=torch.long) if mask_bl is None else mask_bl.long()
    before = torch.zeros_like(valid[:, :0].sum(1)) if before_b is None else before_b
    if valid.shape[1] == 0:
        return valid, before
    earlier = valid.cumsum(1) - valid
    positions = earlier + before[:, None]
    if reset_bl is not None:
        begun = torch.where(reset_bl, earlier, -1).cummax(1).values
        positions = torch.where(begun < 0, positions, earlier - begun)
    return positions, positions[:, -1] + valid[:, -1]
