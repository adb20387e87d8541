from __future__ import annotations

import struct

import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Chart, Curve
from ssm_eval.plots import draw_charts, style
from ssm_eval.plots.charts import _draw


def chart(*curves: Curve, **more) -> Chart:
    return Chart(**{"title": "error", "curves": curves or (Curve(label="a", x=[1, 2], y=[1, 2]),), **more})


def axes_of(one: Chart):
    axes = style.make_figure(5, 4).subplots()
    _draw(axes, one)
    return axes


@pytest.mark.parametrize(("panels", "pixels"), [(1, (930, 543)), (2, (1860, 543)), (3, (1860, 1086))])
def test_charts_are_drawn(tmp_path, panels, pixels):
    path = tmp_path / "plots" / "probe.png"
    assert draw_charts([chart()] * panels, path) == path
    data = path.read_bytes()
    assert struct.unpack(">II", data[16:24]) == pixels
    assert len(data) > 5_000


def test_a_curve_is_drawn_as_it_says():
    styles = ("line", "dashed", "points", "line and points")
    axes = axes_of(chart(*(Curve(label=each, x=[1, 2], y=[1, 2], style=each) for each in styles)))
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "None", "-"]
    assert [line.get_marker() for line in axes.lines] == ["None", "None", "o", "o"]
    assert len({line.get_color() for line in axes.lines}) == 4


def test_colours_are_shared_where_asked():
    curves = [
        Curve(label=name, x=[1], y=[1], same_as=like) for name, like in (("a", ""), ("b", ""), ("c", "a"))
    ]
    a, b, c = (line.get_color() for line in axes_of(chart(*curves)).lines)
    assert a == c != b


def test_gaps_and_intervals():
    axes = axes_of(
        chart(
            Curve(label="a", x=[1, 2, 3], y=[1, None, float("inf")], low=[0, 1, 2], high=[2, 3, 4]),
            Curve(label="b", x=[1, 2], y=[1, 2], low=[0, 1], high=[2, 3], style="points"),
        )
    )
    shown = axes.lines[0].get_ydata()
    assert shown[0] == 1
    assert (shown != shown).tolist() == [False, True, True]
    assert len(axes.collections) == 2


def test_logarithmic_axes_bear_zeros():
    axes = axes_of(chart(Curve(label="a", x=[0, 1, 10], y=[0, 1e-9, 1e3]), log_x=True, log_y=True))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    nothing = axes_of(chart(Curve(label="a", x=[0, 1], y=[0, 0]), log_y=True))
    assert nothing.get_yscale() == "linear"


def test_a_circle_is_round():
    assert axes_of(chart(equal=True)).get_aspect() == 1
    assert axes_of(chart()).get_aspect() == "auto"


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"y": [1]}, "different lengths: \\[1, 2\\]"),
        ({"low": [1, 2]}, "one end of its intervals"),
        ({"low": [1, 2], "high": [1]}, "different lengths"),
        ({"same_as": "b"}, "'b', which is no earlier curve"),
    ],
)
def test_nonsense_is_refused(tmp_path, curve, message):
    wrong = Curve(**{"label": "a", "x": [1, 2], "y": [1, 2], **curve})
    with pytest.raises(UserError, match=message):
        draw_charts([chart(wrong)], tmp_path / "p.png")


def test_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no charts"):
        draw_charts([], tmp_path / "p.png")
