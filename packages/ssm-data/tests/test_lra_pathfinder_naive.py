"""The generator against a second one that draws every mask whole, as the published program does, and has no tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ssm_data.lra_pathfinder.generate import picture, recipe

SIZE, PADDING, LENGTH, MARGIN, SEED_DISTANCE, DASHES = 32, 1, 2, 1, 7, 14
N = 60


class Stuck(Exception):
    """A curve found no room."""


def moved(point: Any, angle: float, distance: float) -> tuple[int, int]:
    """The published rounding: up, but for what floats make of sin(pi)."""
    y, x = (np.ceil(round(c + distance * f(angle), 9)) for c, f in zip(point, (np.sin, np.cos), strict=True))
    return int(y), int(x)


def spread(image: np.ndarray, radius: int) -> np.ndarray:
    """The most within a radius of each pixel."""
    out, (h, w) = np.zeros_like(image), image.shape
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                rows, columns = slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx))
                back = slice(max(0, -dy), h + min(0, -dy)), slice(max(0, -dx), w + min(0, -dx))
                out[back] = np.maximum(out[back], image[rows, columns])
    return out


def dash(point: tuple[int, int], angle: float, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A dash from a point on a whole canvas, and the space it takes."""
    half = LENGTH + 1 + MARGIN
    middle = 2 * half
    canvas = Image.new("L", (4 * half + 1,) * 2)
    y, x = moved((middle, middle), angle, 2 * LENGTH)
    ImageDraw.Draw(canvas).line([(middle, middle), (x, y)], fill=255, width=1)
    line = np.asarray(canvas)
    whole = []
    for drawn in (line, spread(line, 2 * MARGIN)):
        small = np.asarray(Image.fromarray(drawn).resize((2 * half + 1,) * 2, Image.Resampling.LANCZOS)) / 255
        room = np.zeros((size + 4 * half,) * 2)
        y, x = point[0] + 2 * half, point[1] + 2 * half
        room[y - half : y + half + 1, x - half : x + half + 1] = small
        whole.append(room[2 * half : -2 * half, 2 * half : -2 * half])
    return whole[0], whole[1]


class Curve:
    """A curve that grows."""

    def __init__(self, tail: tuple[int, int], angle: float) -> None:
        head = moved(tail, angle, LENGTH)
        self.pivot, self.angle = moved(head, angle + np.pi, LENGTH + MARGIN), angle
        if not all(0 <= c < SIZE for point in (tail, head, self.pivot) for c in point):
            raise Stuck
        self.image, self.last = dash(tail, angle)

    def grow(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.pivot = moved(self.pivot, self.angle, LENGTH + 2 * MARGIN)
        taken, radius = spread(mask, MARGIN), LENGTH + MARGIN
        chances: dict[tuple[int, int], float] = {}
        for degrees in np.arange(0, 360, 360 / (2 * radius * np.pi)):
            angle = np.deg2rad(degrees)
            y = int(np.floor(round(self.pivot[0] + radius * np.sin(angle), 9)))
            x = int(np.floor(round(self.pivot[1] + radius * np.cos(angle), 9)))
            if 0 <= y < SIZE and 0 <= x < SIZE:
                turn = np.arctan2(y - self.pivot[0], x - self.pivot[1]) - self.angle
                turn = abs((turn + np.pi) % (2 * np.pi) - np.pi)
                chances[y, x] = (1 - taken[y, x]) * np.cos(min(turn, np.pi / 2)) ** 2
        total = sum(chances.values())
        if total < 1e-4:
            raise Stuck
        for _ in range(3):
            point = list(chances)[rng.choice(len(chances), p=np.array(list(chances.values())) / total)]
            angle = np.arctan2(point[0] - self.pivot[0], point[1] - self.pivot[1])
            line, space = dash(point, angle + np.pi)
            if (mask + space).max() < 1.8:
                self.image, mask = np.maximum(self.image, line), np.maximum(mask, self.last)
                self.last, self.angle = space, angle
                return mask
        raise Stuck


def free(taken: np.ndarray, angle: float) -> np.ndarray:
    """Places whose dash, a pixel down and to the right, meets nothing."""
    _, space = dash((8, 8), angle, 17)
    body = np.argwhere(space >= 1) - 8 + 1
    body = body[(np.abs(body) <= LENGTH + MARGIN).all(1)]
    places = np.argwhere(np.ones((SIZE, SIZE)))
    points = places[:, None] + body
    inside = ((points >= 0) & (points < SIZE)).all((1, 2))
    clipped = points.clip(0, SIZE - 1)
    return places[inside & ~taken[clipped[..., 0], clipped[..., 1]].any(1)]


def framed(mask: np.ndarray, border: int) -> np.ndarray:
    taken = mask > 0.3
    taken[:border] = taken[SIZE - border :] = taken[:, :border] = taken[:, SIZE - border :] = True
    return taken


def targets(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = framed(np.zeros((SIZE, SIZE)), PADDING).astype(float)
    angle = np.deg2rad(rng.integers(-180, 180))
    places = free(framed(mask, 2 * SEED_DISTANCE), angle)
    if not len(places):
        raise Stuck
    tail = tuple(int(c) for c in places[rng.integers(len(places))])
    curves = [Curve((tail[0], tail[1]), angle)]
    for trial in range(3):
        around = np.deg2rad(rng.integers(360))
        other = [
            int(np.rint(c + SEED_DISTANCE * f(around))) for c, f in zip(tail, (np.sin, np.cos), strict=True)
        ]
        try:
            curves.append(Curve((other[0], other[1]), np.deg2rad(rng.integers(-180, 180))))
            break
        except Stuck:
            if trial == 2:
                raise
    for _ in range(DASHES - 1):
        for curve in curves:
            mask = curve.grow(mask, rng)
    return 1.5 * np.maximum(curves[0].image, curves[1].image), np.maximum(mask, curves[1].last)


def distractor(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if (mask <= 0.3).mean() < 0.01:
        raise Stuck
    for trial in range(3):
        angle = np.deg2rad(rng.integers(-180, 180))
        places = free(framed(mask, 1), angle)
        if not len(places):
            raise Stuck
        tail = places[rng.integers(len(places))]
        try:
            curve = Curve((int(tail[0]), int(tail[1])), angle)
            break
        except Stuck:
            if trial == 2:
                raise
    for _ in range(3):
        mask = curve.grow(mask, rng)
    return 2.0 * curve.image, np.maximum(mask, curve.last)


def naive(rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """A picture without discs, attempts at its targets, distractors laid."""
    attempts, laid = 0, 0
    while True:
        attempts += 1
        try:
            image, mask = targets(rng)
            break
        except Stuck:
            continue
    for _ in range(5):
        for _ in range(5):
            try:
                more, mask = distractor(mask, rng)
            except Stuck:
                continue
            image, laid = np.maximum(image, more), laid + 1
            break
    return image / image.max(), attempts, laid


@pytest.mark.slow
def test_it_makes_the_same_kind_of_picture_as_one_without_tables() -> None:
    rng = np.random.default_rng(0)
    theirs = [naive(rng) for _ in range(N)]
    ours = [picture(recipe(32, 14, 0, "published"), "train", i) for i in range(N)]
    lit = np.array([[(image > 0.3).mean() for image, *_ in theirs], [(p.pixels > 77).mean() for p in ours]])
    # Discs cover some 1 % of the pixels, a part of which were lit before.
    assert 0.0 < lit[1].mean() - lit[0].mean() < 0.015
    for one, other in (
        ([attempts for _, attempts, _ in theirs], [p.attempts for p in ours]),
        ([laid for *_, laid in theirs], [len(p.distractors) for p in ours]),
    ):
        error = np.sqrt((np.var(one) + np.var(other)) / N)
        assert abs(np.mean(one) - np.mean(other)) < 4 * error, (np.mean(one), np.mean(other))
