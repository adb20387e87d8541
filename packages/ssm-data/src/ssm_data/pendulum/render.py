"""Clean frames: the rod drawn at 128x128 and shrunk to 24x24.

Pillow draws a wide line between whole pixels: it truncates the end point, so there are only some 430 different
clean frames, and each is drawn once. The truncation is done here, not left to Pillow: the frames then stay what they
are, should a later Pillow honour fractions.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 24
"""Height and width of a frame."""

CANVAS = 128
CENTRE = CANVAS // 2
ROD = 55
ROD_WIDTH = 8


def render(theta: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw the rod at each angle.

    Args:
        theta: Angles in radians, any shape (...).

    Returns:
        Clean frames (..., 24, 24), 0 black to 255 white.
    """
    tip_x = (CENTRE + ROD * np.sin(theta)).astype(np.int64)
    tip_y = (CENTRE + ROD * np.cos(theta)).astype(np.int64)
    codes, which = np.unique(tip_x * CANVAS + tip_y, return_inverse=True)
    atlas = np.stack([clean_frame(*divmod(int(code), CANVAS)) for code in codes])
    return atlas[which.reshape(theta.shape)]


@functools.cache
def clean_frame(tip_x: int, tip_y: int) -> NDArray[np.uint8]:
    """Draw one frame (24, 24) of the rod from the centre to a pixel of the 128x128 canvas."""
    canvas = Image.new("F", (CANVAS, CANVAS), 0.0)
    ImageDraw.Draw(canvas).line([(CENTRE, CENTRE), (tip_x, tip_y)], fill=1.0, width=ROD_WIDTH)
    small = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    return (np.clip(small, 0.0, 1.0) * 255.0).astype(np.uint8)
