"""Which elements the probe `resample` says a point is made of: those of its window, in text, picture and page."""

from __future__ import annotations

import pytest
import torch
from probed import FIGURE_2, Fixed, Numbers, Read, model_of, read

from ssm_serpent.resample.branches import branches_of
from ssm_serpent.resample.measure import probe
from ssm_serpent.resample.spec import ResampleConfig
from ssm_serpent.testing import windows_of


def test_nearest_windows_are_shown_not_what_lies_between_strokes():
    """Figure 2 with windows to both sides: {3, 4, 5}, {6, 7, 8} and {10, 11, 12}, events at 4, 7 and 12."""
    found = probe(model_of(fixed=Fixed(mode="nearest")), Numbers(), ResampleConfig())
    assert found.text.splitlines()[1:] == [
        "layer 1, branch 1 (kappa 0.25): 3 points of 13 elements, 0.23; windows of 3, 4 of the elements in none",
        "[0 1 2 3 4|5 6 7|8 9 10 11 12]",
        "points: 1 [3 4 5] 2 [6 7 8] 3 [10 11 12]",
    ]
    assert found.rows[0]["in no window"] == 4
    windows = found.charts[1].curves[2]
    assert list(zip(windows.x, windows.y, strict=True))[::3] == [(2.5, 1), (5.5, 2), (9.5, 3)]
    reader = read(found.files["resample.html"])
    held = [title.split(", ", 3)[3] for title in reader.titles]
    assert held == [
        *["in no window, reads point 1"] * 3,
        *["in the window of point 1, reads point 1"] * 3,
        *["in the window of point 2, reads point 2"] * 3,
        "in no window, reads point 2",
        *["in the window of point 3, reads point 3"] * 3,
    ]
    assert [place for place, crossed in enumerate(reader.crossed) if crossed] == [0, 1, 2, 9]
    assert reader.points == [
        " 3  4  5  (elements 3 to 5)",
        " 6  7  8  (elements 6 to 8)",
        " 10  11  12  (elements 10 to 12)",
    ]


def test_windows_shorter_than_a_run_leave_elements_out():
    """24 elements of 0.1 and windows of 5: points 1 and 2 are made of 5 to 9 and 15 to 19, none of 20 to 23."""
    found = probe(model_of(fixed=Fixed([0.1] * 24, 5)), Numbers(24), ResampleConfig())
    assert found.text.splitlines()[1].endswith(
        "2 points of 24 elements, 0.08; windows of 5, 14 of the elements in none"
    )
    assert found.text.splitlines()[3] == "points: 1 [5 6 7 8 9] 2 [15 16 17 18 19]"
    held = [title.split(", ", 3)[3] for title in read(found.files["resample.html"]).titles]
    assert held == [
        *["in no window, reads no point"] * 5,
        *["in the window of point 1, reads no point"] * 4,
        "in the window of point 1, reads point 1",
        *["in no window, reads point 1"] * 5,
        *["in the window of point 2, reads point 1"] * 4,
        "in the window of point 2, reads point 2",
        *["in no window, reads point 2"] * 4,
    ]


def test_elements_that_windows_share_are_in_all_of_them():
    """Five elements of 1/2 and trailing windows of 4: the first reaches back before the sequence."""
    found = probe(model_of(fixed=Fixed([0.5] * 5, 4)), Numbers(5), ResampleConfig())
    assert found.text.splitlines()[1].endswith(
        "2 points of 5 elements, 0.40; windows of 4, 1 of the elements in none"
    )
    assert found.text.splitlines()[3] == "points: 1 [0 1] 2 [0 1 2 3]"
    titles = read(found.files["resample.html"]).titles
    assert [title.split(", ")[3] for title in titles] == [
        *["in the windows of points 1 to 2"] * 2,
        *["in the window of point 2"] * 2,
        "in no window",
    ]


@pytest.mark.parametrize("u", [FIGURE_2, [0.1] * 40, [0.9] * 40])
@pytest.mark.parametrize("window", [1, 4, 50])
@pytest.mark.parametrize("mode", ["nearest", "causal"])
def test_holders_are_the_points_whose_windows_hold_an_element(u, window, mode):
    fixed = Fixed(u, window, mode)
    (branch,) = branches_of(model_of(fixed=fixed), Read().collate([Numbers(len(u))[0]]), "1")
    (told,) = fixed.trace(torch.zeros(1, len(u), 8))
    blocks = windows_of(told.index)
    assert [list(range(*window)) for window in branch.windows] == blocks
    for place, held in enumerate(branch.holders()):
        points = [k for k, block in enumerate(blocks, 1) if place in block]
        assert held == ((points[0], points[-1]) if points else None)
