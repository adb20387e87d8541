"""How our pictures look: sizes, colours that colour-blind readers tell apart, names of metrics."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_core.run.folder import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Pixels an inch."""

# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
GREY = "#6E6E6E"

TITLE, TEXT, SMALL = 13, 11, 10
"""Font sizes in points: titles; axis labels; ticks and legends."""

LABELS = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "nll": "negative log-likelihood (nats)",
    "cross_entropy": "cross-entropy (nats)",
    "accuracy": "accuracy",
    "loss": "loss",
}
"""Metric -> what its axis says."""

LOGARITHMIC = ("mse", "mae")
"""Metrics that fall by factors rather than by differences."""


def label(metric: str) -> str:
    """Return what the axis of a metric says."""
    return LABELS.get(metric, metric.replace("_", " "))


def make_figure(width: float, height: float) -> Figure:
    """Return an empty figure on the Agg canvas.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, *, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Give axes their labels, sizes and a light grid, and take away the frame's upper right half."""
    axes.set_xlabel(x_label, fontsize=TEXT)
    axes.set_ylabel(y_label, fontsize=TEXT)
    axes.set_title(title, fontsize=TEXT, loc="left")
    axes.tick_params(which="both", labelsize=SMALL)
    axes.grid(which="both", color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Axes) -> None:
    """Make the value axis logarithmic, labelled with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, and return the path."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())
    return path
