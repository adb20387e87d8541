"""The measures of each size of Pathfinder, and the tables they make: every dash there can be, drawn once.

A direction is a number: 0 to 359 are degrees - 180, for first dashes; the rest are those towards the candidates for a
next dash's end. Points are (y, x) in whole pixels. Dashes are drawn at twice the size and shrunk with Pillow, as the
published pictures were.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SCALE = 2
"""Dashes and discs are drawn at this multiple of the size."""

DEGREES = 360


@dataclass(frozen=True)
class Measures:
    """How pictures of one size are made, in pixels.

    Attributes:
        size: Side.
        seed_distance: Between the beginnings of the two targets.
        marker_radius: Of a disc.
        thickness: Of a dash.
        length: Of a dash.
        margins: Space round a dash, one of them drawn for each picture.
        continuity: How much a turn is frowned on.
        target_contrast: Brightness of the targets before the picture is scaled to 0..255.
        distractor_contrast: Brightness of the distractors; discs have 1.
        distractor_dashes: Dashes of all distractors together.
        padding: Pixels at the border that stay free.
    """

    size: int
    seed_distance: int
    marker_radius: float
    thickness: float
    length: int
    margins: tuple[int, ...]
    continuity: float
    target_contrast: float
    distractor_contrast: float
    distractor_dashes: int
    padding: int = 1


MEASURES = {
    16: Measures(16, 3, 1.5, 0.5, 2, (1,), 1.0, 1.5, 2.0, 5),
    32: Measures(32, 7, 1.5, 0.5, 2, (1,), 1.0, 1.5, 2.0, 20),
    64: Measures(64, 12, 2.5, 1.0, 5, (1,), 1.8, 0.8, 0.8, 22),
    128: Measures(128, 20, 3.0, 1.5, 5, (2, 3), 1.8, 0.9, 0.9, 35),
    256: Measures(256, 27, 5.0, 2.0, 5, (3,), 1.8, 1.0, 1.0, 30, padding=22),
}
"""Side -> measures: those of the release but for 16, which is ours."""


class Tables(NamedTuple):
    """What can be known before a picture is begun; O directions, M candidates.

    Attributes:
        size: Side of the picture.
        padding: Border that is blocked.
        half: A stamp reaches from -half to half.
        heads: (360, 2) from the tail of a first dash to its head.
        backs: (360, 2) from that head to the first pivot.
        ring: (360, 2) from the first target's tail to the second's.
        advance: (O, 2) from a pivot to the next, in the direction gone.
        candidates: (M, 2) from a pivot to where the next dash may end.
        weights: (O, M) chance of each after each direction, before what is blocked.
        disc: (K, 2) the space round a point that must not be touched.
        body: (360, Q, 2) what a first dash may not have under it, from its tail; Q the most there are.
        body_size: (360,) how many of those count.
        starts: (361,) where the free places of each direction begin in `places`.
        places: (n, 2) where the first target may begin.
        lines: (O, 2 half + 1, 2 half + 1) dashes as drawn, from 0 to 1.
        masks: The same with their space.
    """

    size: int
    padding: int
    half: int
    heads: NDArray[np.int64]
    backs: NDArray[np.int64]
    ring: NDArray[np.int64]
    advance: NDArray[np.int64]
    candidates: NDArray[np.int64]
    weights: NDArray[np.float64]
    disc: NDArray[np.int64]
    body: NDArray[np.int64]
    body_size: NDArray[np.int64]
    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    lines: NDArray[np.float64]
    masks: NDArray[np.float64]


@lru_cache(maxsize=8)
def tables(measures: Measures, margin: int) -> Tables:
    """Make the tables of one size and margin (a second or less)."""
    m, half = measures, measures.length + int(np.ceil(measures.thickness)) + margin
    first = np.deg2rad(np.arange(DEGREES) - 180)
    candidates, towards = _candidates(m.length + margin)
    directions = np.concatenate([first, towards])
    # A first dash is drawn from its tail on; a later one from its end back.
    drawn = np.concatenate([first, towards + np.pi])
    stamps = [_stamp(direction, m.length, margin, half, _width(m)) for direction in drawn]
    masks = np.stack([mask for _, mask in stamps])
    body, body_size = _bodies(masks[:DEGREES], m.length + margin, half)
    starts, places = _first_places(m, body, body_size)
    return Tables(
        size=m.size,
        padding=m.padding,
        half=half,
        heads=_up(first, m.length),
        backs=_up(first + np.pi, m.length + margin),
        ring=np.rint(np.round(m.seed_distance * _unit(np.deg2rad(np.arange(DEGREES))), 9)).astype(np.int64),
        advance=_up(directions, m.length + 2 * margin),
        candidates=candidates,
        weights=_weights(directions, towards, m.continuity),
        disc=_disc(margin),
        body=body,
        body_size=body_size,
        starts=starts,
        places=places,
        lines=np.stack([line for line, _ in stamps]),
        masks=masks,
    )


def marker(radius: float) -> NDArray[np.float64]:
    """Return a disc (2 h + 1, 2 h + 1) from 0 to 1 whose middle is the middle element."""
    half = int(np.ceil(radius)) + 3  # as far as the shrinking reaches
    side = 2 * half + 1
    y, x = np.ogrid[: side * SCALE, : side * SCALE]
    inside = (y - half * SCALE) ** 2 + (x - half * SCALE) ** 2 <= (radius * SCALE) ** 2
    return _shrunk(np.where(inside, 255, 0).astype(np.uint8), side)


def _width(measures: Measures) -> int:
    return round(measures.thickness * SCALE)


def _unit(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.sin(radians), np.cos(radians)], -1)


def _up(radians: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Whole steps (n, 2) in a direction, rounded up; sin(pi) is no step."""
    return np.ceil(np.round(distance * _unit(radians), 9)).astype(np.int64)


def _candidates(radius: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pixels (M, 2) on a circle, and their directions (M,)."""
    pixel = 360 / (2 * radius * np.pi)
    circle = radius * _unit(np.deg2rad(np.arange(0, 360, pixel)))
    points = np.unique(np.floor(np.round(circle, 9)).astype(np.int64), axis=0)
    return points, np.arctan2(points[:, 0], points[:, 1])


def _weights(
    directions: NDArray[np.float64], towards: NDArray[np.float64], continuity: float
) -> NDArray[np.float64]:
    turn = np.abs(directions[:, None] - towards)
    turn = np.minimum(turn, 2 * np.pi - turn)
    weights = np.cos(np.minimum(continuity * turn, np.pi / 2)) ** 2
    return np.where(weights < 1e-12, 0.0, weights)  # cos(pi/2) is not quite 0


def _disc(radius: int) -> NDArray[np.int64]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = y**2 + x**2 <= radius**2
    return np.stack([y[inside], x[inside]], -1)


def _stamp(
    direction: float, length: int, margin: int, half: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A dash from the middle in a direction, and the space it takes, each (2 half + 1, 2 half + 1) from 0 to 1."""
    y, x = _up(np.array(direction), length * SCALE)
    return _stamp_to(int(y), int(x), margin, half, width)


@cache
def _stamp_to(
    head_y: int, head_x: int, margin: int, half: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    middle = half * SCALE
    canvas = Image.new("L", (2 * middle + 1, 2 * middle + 1), 0)
    ends = [(middle, middle), (middle + head_x, middle + head_y)]
    ImageDraw.Draw(canvas).line(ends, fill=255, width=width)
    drawn = np.asarray(canvas)
    padded = np.pad(drawn, margin * SCALE)
    spread = np.zeros_like(drawn)
    for y, x in _disc(margin * SCALE) + margin * SCALE:
        np.maximum(spread, padded[y : y + len(drawn), x : x + len(drawn)], out=spread)
    return _shrunk(drawn, 2 * half + 1), _shrunk(spread, 2 * half + 1)


def _shrunk(drawn: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    small = Image.fromarray(drawn).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small).astype(np.float64) / 255


def _bodies(masks: NDArray[np.float64], reach: int, half: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each first dash fills its pixel wholly, from its tail.

    Everything is one pixel down and to the right, since the published code takes the tail for the middle of a square in
    which it stands next to it.
    """
    points = []
    for mask in masks:
        y, x = np.nonzero(mask >= 1.0)
        offsets = np.stack([y, x], -1) - half + 1
        points.append(offsets[(np.abs(offsets) <= reach).all(1)])
    body = np.zeros((len(points), max(len(each) for each in points), 2), np.int64)
    for row, each in zip(body, points, strict=True):
        row[: len(each)] = each
    return body, np.array([len(each) for each in points], np.int64)


def _first_places(
    m: Measures, body: NDArray[np.int64], body_size: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the first target may begin, in each direction: all of its dash far from the border."""
    border = 2 * m.seed_distance
    y, x = np.mgrid[: m.size, : m.size].reshape(2, -1)
    found = []
    for points, count in zip(body, body_size, strict=True):
        ys, xs = (axis[:, None] + points[:count, i] for i, axis in enumerate((y, x)))
        # What lies outside the picture does not count as blocked in the published dilation; here it is never reached.
        free = ((ys >= border) & (ys < m.size - border) & (xs >= border) & (xs < m.size - border)).all(1)
        found.append(np.stack([y[free], x[free]], -1))
    starts = np.concatenate([[0], np.cumsum([len(each) for each in found])]).astype(np.int64)
    return starts, np.concatenate(found).astype(np.int64)
