"""Predictions against truth with their uncertainty, over irregular time points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import BandPlot
from ssm_eval.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2
WIDTH, HEIGHT, HEADER = 5.2, 2.7, 0.5
"""Inches of a panel, and of the legend above all panels."""


def predictions(panels: Sequence[BandPlot], path: Path | str) -> Path:
    """Draw panels of truth, predicted mean and a band of two standard deviations.

    Args:
        panels: What the task's ``plots`` gives.
        path: The PNG file to write.

    Raises:
        UserError: If there is no panel, or the arrays of one differ in length.
    """
    if not panels:
        raise UserError("there is nothing to draw: the task gives no panels")
    for panel in panels:
        _check(panel)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.make_figure(WIDTH * columns, HEIGHT * rows + HEADER)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    entries = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper center",
        ncols=len(entries),
        fontsize=style.TEXT,
        frameon=False,
    )
    return style.save(figure, Path(path))


def _check(panel: BandPlot) -> None:
    lengths = {len(panel.x), len(panel.truth), len(panel.mean)}
    lengths |= set() if panel.std is None else {len(panel.std)}
    if len(lengths) > 1:
        raise UserError(f"the panel '{panel.title}' has arrays of different lengths: {sorted(lengths)}")


def _draw(axes: Axes, panel: BandPlot) -> None:
    order = np.argsort(np.asarray(panel.x), kind="stable")
    x, truth, mean = (np.asarray(values)[order] for values in (panel.x, panel.truth, panel.mean))
    if panel.std is not None:
        half = 2 * np.asarray(panel.std)[order]
        axes.fill_between(
            x, mean - half, mean + half, color=style.SKY, alpha=0.45, linewidth=0, label="± 2 std"
        )
    axes.plot(x, mean, color=style.BLUE, linewidth=1.6, label="predicted mean")
    axes.plot(
        x,
        truth,
        color=style.BLACK,
        linestyle="none",
        marker="o",
        markersize=3.2,
        label="truth at observed times",
    )
    axes.margins(x=0.02)
    style.dress(axes, x_label=panel.x_label, y_label=panel.y_label, title=panel.title)
