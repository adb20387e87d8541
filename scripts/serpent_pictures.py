"""Draws how selective resampling works, from the index maps that the code itself computes.

uv run python scripts/serpent_pictures.py    writes docs/explanation/serpent-*.png
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ssm_eval.plots.style import BLUE, GREEN, GREY, ORANGE, SMALL, TEXT, VERMILION, make_figure, save
from ssm_serpent.index import Index, resample_index
from ssm_serpent.intervals import TICKS, Intervals, fixed_point
from workspace import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = ROOT / "docs" / "explanation"

FIGURE_2 = (0.1, 0.2, 0.2, 0.4, 0.2, 0.1, 0.5, 0.5, 0.1, 0.1, 0.2, 0.2, 0.4)
"""Intervals of the example in figure 2 of the paper."""

WINDOW = 3
POINT_COLOURS = (GREY, BLUE, ORANGE, GREEN, VERMILION)
"""Of tokens that read no point, and of those that read point 1, 2, ..."""


def maps(mode: str) -> tuple[Intervals, Index]:
    """Return the intervals of the example and its index maps."""
    spans = fixed_point(torch.tensor([FIGURE_2], dtype=torch.float64), 0.0, 1.0)
    return spans, resample_index(spans, WINDOW, mode)  # pyright: ignore[reportArgumentType]


def times(spans: Intervals) -> list[float]:
    """Return the running times S, in units of the grid's spacing."""
    return (spans.times_bl[0].double() / TICKS).tolist()


def bare(axes: Axes, title: str) -> None:
    """Leave nothing but the time axis."""
    axes.set_title(title, fontsize=TEXT, loc="left")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.set_xlim(-0.05, 3.45)
    axes.set_xticks([0, 1, 2, 3])


def draw_intervals(axes: Axes) -> None:
    """Draw each token's interval as a bar that ends at its time, and the grid."""
    spans, index = maps("causal")
    events = {int(token) for token in index.event_bk[0]}
    for token, (time, width) in enumerate(zip(times(spans), FIGURE_2, strict=True)):
        colour = VERMILION if token in events else "#CFE3F2"
        axes.barh(0, width, left=time - width, height=0.5, color=colour, edgecolor="white", linewidth=1.5)
        axes.text(time - width / 2, -0.3, str(token + 1), ha="center", va="top", fontsize=SMALL)
    for k in (1, 2, 3):
        axes.axvline(k, color="black", linewidth=1.2, linestyle="--")
        axes.text(k + 0.02, 0.42, f"k = {k}", ha="left", va="bottom", fontsize=SMALL)
    axes.set_ylim(-0.55, 0.7)
    bare(axes, "intervals u end to end are times S; where S first reaches k, point k is finished (red)")


def draw_windows(axes: Axes, mode: str, title: str) -> None:
    """Draw the tokens at their times and the window of each point above them."""
    spans, index = maps(mode)
    at = times(spans)
    for k in range(1, int(index.count_b[0]) + 1):
        axes.axvline(k, color="#BBBBBB", linewidth=1, linestyle="--", zorder=0)
        start = int(index.start_bk[0, k - 1])
        held = [start + j for j in range(WINDOW) if index.inside_bkw[0, k - 1, j]]
        for token in held:
            axes.plot([at[token], k], [0, 1], color=POINT_COLOURS[k], linewidth=1.2, zorder=1)
        axes.plot(k, 1, "s", markersize=11, color=POINT_COLOURS[k], zorder=3)
        axes.text(k, 1, str(k), ha="center", va="center", fontsize=SMALL, color="white", zorder=4)
    draw_tokens(axes, at, ["#444444"] * len(at), 0)
    axes.set_ylim(-0.45, 1.3)
    bare(axes, title)


def draw_reading(axes: Axes, mode: str, title: str) -> None:
    """Draw which point each token reads back."""
    spans, index = maps(mode)
    points = index.point_bl[0].tolist()
    at = times(spans)
    for k in range(1, int(index.count_b[0]) + 1):
        axes.axvline(k, color="#BBBBBB", linewidth=1, linestyle="--", zorder=0)
        axes.plot(k, 1, "s", markersize=11, color=POINT_COLOURS[k], zorder=3)
        axes.text(k, 1, str(k), ha="center", va="center", fontsize=SMALL, color="white", zorder=4)
    for time, point in zip(at, points, strict=True):
        if point:
            axes.plot([point, time], [1, 0], color=POINT_COLOURS[point], linewidth=1.2, zorder=1)
    draw_tokens(axes, at, [POINT_COLOURS[point] for point in points], 0)
    axes.set_ylim(-0.45, 1.3)
    bare(axes, title)


def draw_tokens(axes: Axes, at: list[float], colours: list[str], y: float) -> None:
    """Draw the tokens as numbered dots at their times."""
    for token, (time, colour) in enumerate(zip(at, colours, strict=True)):
        axes.plot(time, y, "o", markersize=7, color=colour, zorder=3)
        # Numbers of tokens that lie close together take turns above and below each other.
        axes.text(time, y - 0.17 - 0.14 * (token % 2), str(token + 1), ha="center", va="top", fontsize=8)


def main() -> None:
    """Write both pictures."""
    figure = make_figure(9, 6.2)
    top, middle, bottom = figure.subplots(3, 1)
    draw_intervals(top)
    draw_windows(
        middle, "causal", f"encoding: the {WINDOW} tokens that end at the finished one make the point"
    )
    draw_reading(
        bottom, "causal", "decompression: a token reads the last finished point; before the first, nothing"
    )
    bottom.set_xlabel("time S, in units of the grid's spacing", fontsize=TEXT)
    print(save(figure, FOLDER / "serpent-mechanism.png").relative_to(ROOT))

    figure = make_figure(11, 4.4)
    for column, mode in zip(figure.subplots(2, 2).T, ("causal", "nearest"), strict=True):
        draw_windows(column[0], mode, f"{mode}: windows")
        draw_reading(column[1], mode, f"{mode}: which point a token reads")
        column[1].set_xlabel("time S", fontsize=TEXT)
    print(save(figure, FOLDER / "serpent-causal-and-nearest.png").relative_to(ROOT))


if __name__ == "__main__":
    main()
