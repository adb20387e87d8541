from __future__ import annotations

import dataclasses
import struct

import pytest

from ssm_core.plugin.errors import UserError
from ssm_eval.plots import style
from ssm_eval.plots.study import Line, Panel, Picture, draw


def line(label: str, *, interval: bool = True, at: tuple[float, ...] = (0, 1, 2)) -> Line:
    made = Line(label)
    for place, x in enumerate(at):
        y = 0.01 * (place + 1)
        made.add(x, y, y / 2 if interval else None, 2 * y if interval else None)
    return made


def size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert len(data) > 10_000
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(("panels", "width"), [(1, 900), (2, 1320), (5, 1980)])
def test_panels_stand_in_rows_of_three(tmp_path, panels, width):
    made = [Panel(f"panel {n}", [line("a"), line("b", interval=False)]) for n in range(panels)]
    picture = Picture(
        made, "a title that goes on for long enough to be broken " * 3, "", "mse", ["x", "y", "z"]
    )
    path = draw(picture, tmp_path / "new" / "figure.png")
    assert size(path)[0] == width


def test_numbers_and_logarithms(tmp_path):
    panels = [Panel("", [line("a", at=(4, 16, 64)), line("b", at=(4, 64, 256)), Line("nothing yet")])]
    plain = draw(Picture(panels, "t", "N", "mse"), tmp_path / "a.png").read_bytes()
    logarithmic = draw(
        Picture(panels, "t", "N", "mse", log_x=True, log_y=True), tmp_path / "b.png"
    ).read_bytes()
    assert plain != logarithmic


@pytest.mark.parametrize(("least", "scale"), [(0.01, "log"), (0.0, "linear"), (-0.01, "linear")])
def test_all_panels_are_logarithmic_or_none(tmp_path, monkeypatch, least, scale):
    other = line("a")
    other.y[0] = least
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure) or path)
    draw(
        Picture([Panel("", [other]), Panel("", [line("a")])], "t", "", "mse", log_y=True), tmp_path / "a.png"
    )
    assert [axes.get_yscale() for axes in drawn[0].axes] == [scale] * 2


@pytest.mark.parametrize(("ticks", "joined"), [(None, True), (list("abc"), False)])
def test_places_are_joined_where_they_have_an_order(tmp_path, monkeypatch, ticks, joined):
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure) or path)
    draw(Picture([Panel("", [line("a")])], "t", "", "mse", ticks=ticks), tmp_path / "a.png")
    marks = [artist for artist in drawn[0].axes[0].get_lines() if len(artist.get_xdata()) == 3]
    assert (marks[0].get_linestyle() != "None") == joined


def test_many_lines_stay_apart(tmp_path):
    panels = [Panel("", [line(str(number)) for number in range(9)])]
    assert size(draw(Picture(panels, "t", "", "accuracy", ticks=list("abc")), tmp_path / "a.png"))[0] == 900


def test_a_line_keeps_its_colour_when_others_come(tmp_path):
    alone = Picture([Panel("", [line("b")])], "t", "", "mse", ticks=list("xyz"))
    kept = dataclasses.replace(alone, labels=["a", "b"])
    drawn = [draw(picture, tmp_path / "a.png").read_bytes() for picture in (alone, kept)]
    assert drawn[0] != drawn[1]


def test_nothing_to_draw(tmp_path):
    with pytest.raises(UserError, match="no run of the study is finished"):
        draw(Picture([], "t", "", "mse"), tmp_path / "a.png")
