"""Charts of probes and benches: who measures gives plain values, which become the panels of one picture here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import Chart, Curve
from ssm_eval.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2
WIDTH, HEIGHT, LEGEND_LINE = 6.2, 3.4, 0.22
"""Inches of a panel, and of a line of the legend below it."""

PALETTE = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.SKY, style.BLACK, style.GREY)
LINES = {"line": "-", "dashed": "--", "points": "none", "line and points": "-"}
"""Style of a curve -> how its points are joined."""


def draw_charts(charts: Sequence[Chart], path: Path | str) -> Path:
    """Draw charts as panels of one PNG and return its path.

    Values that are None, NaN or infinite leave a gap, and so do those below zero on a logarithmic axis.

    Args:
        charts: What a :class:`ssm_core.protocols.Result` holds; two stand side by side.
        path: The PNG file to write.

    Raises:
        UserError: If there is no chart, or a curve's values do not belong together.
    """
    if not charts:
        raise UserError("there is nothing to draw: the result has no charts")
    for chart in charts:
        _check(chart)
    columns = min(COLUMNS, len(charts))
    rows = -(-len(charts) // columns)
    lines = max(-(-len(chart.curves) // 2) for chart in charts)
    figure = style.make_figure(WIDTH * columns, (HEIGHT + LEGEND_LINE * lines) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, chart in zip(grid, charts, strict=False):
        _draw(axes, chart)
    for axes in grid[len(charts) :]:
        axes.set_axis_off()
    return style.save(figure, Path(path))


def _check(chart: Chart) -> None:
    seen: set[str] = set()
    for curve in chart.curves:
        where = f"the curve '{curve.label}' of the chart '{chart.title}'"
        ends = [end for end in (curve.low, curve.high) if end is not None]
        lengths = {len(values) for values in (curve.x, curve.y, *ends)}
        if len(lengths) > 1:
            raise UserError(f"{where} has values of different lengths: {sorted(lengths)}")
        if len(ends) == 1:
            raise UserError(f"{where} has one end of its intervals only", "give low and high, or neither")
        if curve.same_as and curve.same_as not in seen:
            raise UserError(f"{where} is to look like '{curve.same_as}', which is no earlier curve")
        seen.add(curve.label)


def _draw(axes: Axes, chart: Chart) -> None:
    colours: dict[str, str] = {}
    for curve in chart.curves:
        own = PALETTE[len(set(colours.values())) % len(PALETTE)]
        colours[curve.label] = colours.get(curve.same_as, own)
        _draw_curve(axes, curve, colours[curve.label])
    for name, wanted in (("x", chart.log_x), ("y", chart.log_y)):
        if wanted:
            _logarithmic(axes, name, chart)
    if chart.equal:
        axes.set_aspect("equal")
    style.dress(axes, x_label=chart.x_label, y_label=chart.y_label, title=chart.title)
    if any(curve.label for curve in chart.curves):
        below = {"loc": "upper left", "bbox_to_anchor": (-0.05, -0.16), "ncols": 2, "borderaxespad": 0}
        axes.legend(fontsize=style.SMALL, frameon=False, **below)


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    x, y = _numbers(curve.x), _numbers(curve.y)
    points = "points" in curve.style
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=LINES[curve.style],
        linewidth=1.6,
        marker="o" if points else None,
        markersize=4,
        alpha=0.8 if curve.style == "points" else 1.0,
        label=curve.label,
    )
    if curve.low is None or curve.high is None:
        return
    low, high = _numbers(curve.low), _numbers(curve.high)
    if points:
        axes.vlines(x, low, high, color=colour, linewidth=1.2)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """Return float64, NaN where there is nothing to draw."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _logarithmic(axes: Axes, name: str, chart: Chart) -> None:
    """Make an axis logarithmic: plain numbers at 1, 2 and 5 of each decade, powers of ten if there are many."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    each = [_numbers(curve.x if name == "x" else curve.y) for curve in chart.curves]
    values = np.concatenate(each) if each else np.zeros(0)
    values = values[values > 0]
    if not values.size:
        return
    axes.set_xscale("log") if name == "x" else axes.set_yscale("log")
    axis = axes.xaxis if name == "x" else axes.yaxis
    if values.max() < 300 * values.min():
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
