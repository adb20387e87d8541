from __future__ import annotations

import os
import time
from importlib.util import find_spec
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import UserError
from ssm_data.lra_pathfinder import dataset
from ssm_data.lra_pathfinder.generate import Picture, draw, picture, pictures, recipe
from ssm_data.lra_pathfinder.geometry import DEGREES, MEASURES, marker, tables

SMALL: dict[str, Any] = {"resolution": 16, "contour_length": 4, "n_train": 6, "n_validation": 3, "n_test": 2}
ROWS = 20


def make(**given: Any) -> Any:
    return registry.build_task("lra-pathfinder", given)


@pytest.fixture(scope="module")
def made() -> list[Picture]:
    plan = recipe(32, 14, 0, "published")
    return [picture(plan, "train", number) for number in range(24)]


def ends(dash: np.ndarray, first: bool, margin: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Where a dash begins and ends (y, x), by its own direction."""
    m = MEASURES[size]
    towards = tables(m, margin).candidates
    y, x, direction = dash
    angle = np.deg2rad(direction - 180) if first else np.arctan2(*towards[direction - DEGREES])
    step = m.length * np.array([np.sin(angle), np.cos(angle)])
    point = np.array([y, x], float)
    return (point, point + step) if first else (point - step, point)


def polyline(dashes: np.ndarray, margin: int) -> np.ndarray:
    points = [ends(dash, i == 0, margin) for i, dash in enumerate(dashes)]
    return np.concatenate(points)


def test_the_label_says_whether_the_discs_lie_on_one_curve(made: list[Picture]) -> None:
    assert {p.label for p in made} == {0, 1}
    for p in made:
        lines = [polyline(target, p.margin) for target in p.targets]
        on = [
            {i for i, line in enumerate(lines) if np.hypot(*(line - disc).T).min() < 0.01} for disc in p.discs
        ]
        assert on[0], "the first disc lies on no target"
        assert (on[0] == on[1]) == bool(p.label)
        begins, stops = ([line[i] for line in lines] for i in (0, -1))
        assert any(np.allclose(p.discs[0], point) for point in begins)
        assert any(np.allclose(p.discs[1], point) for point in stops)


def test_curves_are_continuous_and_never_turn_back(made: list[Picture]) -> None:
    for p in made:
        t = tables(MEASURES[32], p.margin)
        for curve in (*p.targets, *p.distractors):
            line = polyline(curve, p.margin)
            gaps = np.hypot(*(line[2::2] - line[1:-1:2]).T)
            # Two margins, and what rounding up moves pivot and head.
            assert gaps.max() <= 2 * p.margin + np.sqrt(8), "a dash does not follow the last"
            for before, after in pairwise(curve):
                assert t.weights[before[2], after[2] - DEGREES] > 0


def test_two_discs_stand_out(made: list[Picture]) -> None:
    """What is drawn without curves are two discs; in the picture their middles are as bright as a disc or brighter."""
    disc = marker(1.5)
    assert disc[len(disc) // 2, len(disc) // 2] == 1.0
    for p in made:
        for y, x in p.discs:
            inside = p.pixels[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1]
            assert inside.min() >= 180, "a disc is dark"
        assert np.hypot(*(p.discs[0] - p.discs[1])) > 0


def crosses(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    def side(start: np.ndarray, stop: np.ndarray, point: np.ndarray) -> float:
        (ay, ax), (by, bx) = stop - start, point - start
        return ay * bx - ax * by

    apart = [side(*a, b[0]) * side(*a, b[1]) for a, b in ((one, other), (other, one))]
    return max(apart) < 0


def test_curves_hardly_ever_cross(made: list[Picture]) -> None:
    """Only where the published code does not look: over the dashes that were laid last, and first ones."""
    crossings = 0
    for p in made:
        dashes = [
            (curve, i, ends(dash, i == 0, p.margin))
            for curve, each in enumerate([*p.targets, *p.distractors])
            for i, dash in enumerate(each)
        ]
        for (curve, i, one), (other, j, two) in combinations(dashes, 2):
            if (curve != other or abs(i - j) > 1) and crosses(one, two):
                crossings += 1
                unseen = (curve, i) == (0, 13) or (other == 1 and abs(i - j) <= 1) or 0 in (i, j)
                assert unseen, f"dash {i} of curve {curve} crosses dash {j} of curve {other}"
    assert crossings <= len(made) / 2


@pytest.mark.parametrize(("contrast", "ratio"), [("published", 0.75), ("equal", 1.0)])
def test_targets_are_darker_as_published_or_as_bright(contrast: str, ratio: float) -> None:
    """The same dash twice, as a target and as a distractor."""
    m = recipe(32, 14, 0, contrast).measures
    t = tables(m, 1)
    dashes = np.array([[[8, 8, 180]], [[24, 24, 180]]])
    drawn = draw(m, t, dashes[:1], dashes[1:], np.array([[2, 29], [29, 2]])).astype(float)
    target, distractor = drawn[4:13, 4:13], drawn[20:29, 20:29]
    assert distractor.max() > 200
    assert target.max() / distractor.max() == pytest.approx(ratio, abs=0.01)


def test_as_many_pixels_are_lit_as_expected(made: list[Picture]) -> None:
    lit = np.mean([(p.pixels > 77).mean() for p in made])
    assert 0.15 < lit < 0.185
    assert 3.5 < np.mean([len(p.distractors) for p in made]) <= 5
    assert all(len(p.targets[0]) == 14 and p.distractors.shape[1] == 4 for p in made)
    assert 5 < np.mean([p.attempts for p in made]) < 80


def test_every_picture_has_a_stream_of_its_own() -> None:
    plan = recipe(16, 4, 0, "published")
    alone = picture(plan, "train", 5).pixels
    among = list(pictures(plan, "train", 3, 7))[2].pixels
    assert np.array_equal(alone, among)
    others = [
        picture(plan, "train", 6),
        picture(plan, "test", 5),
        picture(recipe(16, 4, 1, "published"), "train", 5),
    ]
    assert all(not np.array_equal(alone, other.pixels) for other in others)


def test_larger_sets_continue_smaller_ones_and_stopped_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dataset.BLOCK_BYTES, "made", 4 * 256)
    given = {**SMALL, "source": "generate", "cache": str(tmp_path), "n_train": 10}
    calls: list[tuple[str, int]] = []

    def stop(what: str, done: int, total: int) -> None:
        calls.append((what, done))
        if len(calls) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(**given).prepare(stop)
    calls = [("", 0)] * 8  # so that it does not stop again
    task = make(**given)
    task.prepare(stop)
    assert calls[8] == ("lra-pathfinder data: train", 5), "the first block of 4 was kept"
    small = task.splits()["train"]
    assert len(small.blocks) == 3
    large = make(**{**given, "n_train": 13}).splits()["train"]
    assert np.array_equal(large.arrays["inputs"][:10], small.arrays["inputs"])
    again: list[int] = []
    make(**given).prepare(lambda *call: again.append(1))
    assert not again


def test_a_new_generator_makes_new_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**SMALL, "source": "generate", "cache": str(tmp_path)}
    before = make(**given).splits()["train"].blocks[0].folder
    monkeypatch.setattr(dataset, "GENERATOR", 99)
    assert make(**given).splits()["train"].blocks[0].folder != before


def test_curves_without_room_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssm_data.lra_pathfinder.generate.MOST_ATTEMPTS", 64)
    with pytest.raises(UserError, match="no room for two curves of 14 dashes in 16 x 16"):
        picture(recipe(16, 14, 0, "published"), "train", 0)


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the promise is for two cores")
@pytest.mark.slow
def test_all_pictures_of_32_pixels_would_take_at_most_a_quarter_of_an_hour() -> None:
    plan, number = recipe(32, 14, 0, "published"), 1000
    list(pictures(plan, "train", 0, 8, workers=2, compiled=True))  # compiles
    began = time.perf_counter()
    made = sum(1 for _ in pictures(plan, "train", 0, number, workers=2, compiled=True))
    seconds = time.perf_counter() - began
    assert made == number
    assert seconds * 200_000 / number < 15 * 60, f"{seconds:.2f} s for {number}"


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "dashes"), [(16, 4), (32, 14), (64, 14), (128, 6)])
def test_compiled_code_makes_the_same_pictures(resolution: int, dashes: int) -> None:
    plan = recipe(resolution, dashes, 3, "published")
    plain = list(pictures(plan, "test", 0, 6))
    for workers in (1, 3):
        for ours, theirs in zip(plain, pictures(plan, "test", 0, 6, workers, compiled=True), strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)
            assert np.array_equal(ours.targets, theirs.targets)
            assert ours.attempts == theirs.attempts
