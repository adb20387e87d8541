"""The picture of a study: panels of lines with their confidence intervals, over numbers or names."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_core.plugin.errors import UserError
from ssm_eval.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
WIDTH, HEIGHT, HEADER, LEGEND_ROW = 4.4, 3.4, 0.5, 0.25
"""Inches of a panel, of the title above all panels, and of a row of the legend below them."""

LETTERS = 8
"""Letters of the title in an inch, about."""

COLOURS = (style.BLACK, style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.SKY, style.GREY)
MARKERS = "osD^vPX"
STYLES = ("-", "--", ":")
"""Colour and marker change from line to line; the style of the stroke when the colours are used up."""

SPREAD = 0.35
"""Width over which the lines at one named place are laid out, so that their intervals do not hide each other."""


@dataclass
class Line:
    """One line.

    Attributes:
        label: What the legend calls it.
        x: Places (n,).
        y: Means (n,).
        low: Lower ends of the intervals (n,), None where there is none.
        high: Upper ends.
    """

    label: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)

    def add(self, x: float, y: float, low: float | None, high: float | None) -> None:
        """Add a point."""
        self.x.append(x)
        self.y.append(y)
        self.low.append(low)
        self.high.append(high)


@dataclass
class Panel:
    """One panel.

    Attributes:
        title: What stands above it.
        lines: Its lines.
    """

    title: str
    lines: Sequence[Line]


@dataclass
class Picture:
    """All panels.

    Attributes:
        panels: They share the ordinate.
        title: What stands above all.
        x_label: Label of the abscissa.
        metric: What the ordinate is.
        labels: Labels of all lines that there may be: a line keeps its colour when others come. Those of the lines,
            if not given.
        ticks: Names of the places 0, 1, ... along the abscissa; None if places are numbers.
        log_x: Logarithmic abscissa.
        log_y: Logarithmic ordinate, if all means are above 0.
    """

    panels: Sequence[Panel]
    title: str
    x_label: str
    metric: str
    labels: Sequence[str] = ()
    ticks: Sequence[str] | None = None
    log_x: bool = False
    log_y: bool = False


def draw(picture: Picture, path: Path | str) -> Path:
    """Draw the picture of a study.

    Args:
        picture: What to draw.
        path: The PNG file to write.

    Raises:
        UserError: If there is no panel, or the file cannot be written.
    """
    if not picture.panels:
        raise UserError("there is nothing to draw: no run of the study is finished")
    present = [line.label for panel in picture.panels for line in panel.lines]
    labels = list(dict.fromkeys([*picture.labels, *present]))
    columns = min(COLUMNS, len(picture.panels))
    rows = -(-len(picture.panels) // columns)
    in_row = max(1, min(len(set(present)), 2 * columns))
    below = LEGEND_ROW * (-(-len(set(present)) // in_row) + 1)
    width = max(6.0, WIDTH * columns)
    figure = style.make_figure(width, HEIGHT * rows + HEADER + below)
    title = "\n".join(textwrap.wrap(picture.title, int(LETTERS * width)))
    figure.suptitle(title, fontsize=style.TITLE, fontweight="bold")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, panel in zip(grid, picture.panels, strict=False):
        _draw(axes, panel, picture, labels)
    if picture.log_y and all(y > 0 for panel in picture.panels for line in panel.lines for y in line.y):
        style.logarithmic(grid[0])  # of all panels: they share the ordinate
    for axes in grid[len(picture.panels) :]:
        axes.set_axis_off()
    entries = {}
    for axes in grid:
        handles, names = axes.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    shown = {label: entries[label] for label in labels if label in entries}
    if shown:
        figure.legend(
            list(shown.values()),
            list(shown),
            loc="outside lower center",
            ncols=in_row,
            fontsize=style.SMALL,
            frameon=False,
        )
    return style.save(figure, Path(path))


def _draw(axes: Axes, panel: Panel, picture: Picture, labels: Sequence[str]) -> None:
    for line in panel.lines:
        number = labels.index(line.label)
        shift = 0.0
        if picture.ticks is not None and len(labels) > 1:
            shift = SPREAD * (number / (len(labels) - 1) - 0.5)
        x = [place + shift for place in line.x]
        # One seed has no interval: NaN is a mark without a bar.
        bars = [
            [math.nan if end is None else abs(y - end) for y, end in zip(line.y, ends, strict=True)]
            for ends in (line.low, line.high)
        ]
        axes.errorbar(
            x,
            line.y,
            yerr=bars,
            label=line.label,
            color=COLOURS[number % len(COLOURS)],
            # The second round of colours has other marks with them, hollow ones: not all pictures have lines.
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            markerfacecolor="none" if number // len(COLOURS) % 2 else None,
            # Between names, which have no order, a line would say that there is something.
            linestyle="none" if picture.ticks is not None else STYLES[number // len(COLOURS) % len(STYLES)],
            linewidth=1.4,
            markersize=4.5,
            capsize=2.5,
            elinewidth=1.0,
        )
    _abscissa(axes, panel, picture)
    style.dress(
        axes, x_label=picture.x_label, y_label=f"test {style.label(picture.metric)}", title=panel.title
    )


def _abscissa(axes: Axes, panel: Panel, picture: Picture) -> None:
    if picture.ticks is not None:
        slanted = max(map(len, picture.ticks)) * len(picture.ticks) > 36
        axes.set_xticks(range(len(picture.ticks)), picture.ticks)
        axes.tick_params(axis="x", rotation=35 if slanted else 0)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right" if slanted else "center")
        return
    places = sorted({x for line in panel.lines for x in line.x})
    if picture.log_x and places[0] > 0:
        axes.set_xscale("log")
    if len(places) <= 8:
        from matplotlib.ticker import NullLocator

        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
