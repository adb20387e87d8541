"""Colours to grey, as the two libraries do it whose results are published."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Grey: TypeAlias = Literal["pillow", "tensorflow"]

BLOCK = 1000
"""Pictures at a time: the arithmetic is in 4 bytes, the pictures in 1."""


def grey_of(planes: NDArray[np.uint8], how: Grey) -> NDArray[np.uint8]:
    """Return grey values (n, pixels) of colours (n, 3 * pixels), all of red before green before blue.

    Args:
        planes: uint8.
        how: ``pillow``: (19595 R + 38470 G + 7471 B + 2^15) / 2^16, rounded down, as Pillow's mode L and
            ``torchvision.transforms.Grayscale``. ``tensorflow``: .2989 R + .587 G + .114 B in float32 on a scale of 0
            to 1, times 255.5, rounded down, as ``tf.image.rgb_to_grayscale``.
    """
    convert = _pillow if how == "pillow" else _tensorflow
    out = np.empty((len(planes), planes.shape[1] // 3), np.uint8)
    for start in range(0, len(planes), BLOCK):
        piece = planes[start : start + BLOCK]
        out[start : start + BLOCK] = convert(piece.reshape(len(piece), 3, -1))
    return out


def _pillow(rgb: NDArray[np.uint8]) -> NDArray:
    red, green, blue = rgb.astype(np.uint32).swapaxes(0, 1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _tensorflow(rgb: NDArray[np.uint8]) -> NDArray:
    red, green, blue = (rgb.astype(np.float32) * np.float32(1 / 255)).swapaxes(0, 1)
    grey = red * np.float32(0.2989) + green * np.float32(0.587) + blue * np.float32(0.114)
    return (grey * np.float32(255.5)).astype(np.uint8)
